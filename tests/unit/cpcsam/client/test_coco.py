"""COCO datasets are read by pycocotools, and merging keeps each mask's image and category."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import supervision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cpcsam.client.coco import coco_dataset, merge_coco
from cpcsam.client.masks import Mask, encode_run_lengths
from cpcsam.client.prompts import Prompt
from cpcsam.client.results import SegmentResult
from cpcsam.client.supervision_adapter import detection_arrays, detections_of
from cpcsam.errors import ConfigError, ContractError

SIZE = (20, 30)


def mask_of(x: int, label: str = "", score: float = 0.5) -> Mask:
    array = np.zeros(SIZE, bool)
    array[2:9, x : x + 4] = True
    counts, box = encode_run_lengths(array), (float(x), 2.0, float(x + 4), 9.0)
    return Mask(SIZE, counts, score, box, int(array.sum()), label)


def result_of(*masks: Mask) -> SegmentResult:
    prompts = tuple(Prompt.click(mask.box[0], mask.box[1]) for mask in masks)
    return SegmentResult("", SIZE, prompts, tuple((mask,) for mask in masks), "segment", "3", {})


def test_annotations_have_the_calibrated_prompt_if_there_is_one() -> None:
    result = result_of(mask_of(2), mask_of(9))
    assert all(
        "calibrated_prompt" not in entry for entry in coco_dataset("", result)["annotations"]
    )
    moved = replace(result, calibrated_prompts=(None, Prompt(((3, 4),), (0,), (1, 2, 5, 6))))
    first, second = coco_dataset("", moved)["annotations"]
    assert "calibrated_prompt" not in first
    assert second["calibrated_prompt"] == {
        "point_coords": [[3, 4]],
        "point_labels": [0],
        "box": [1, 2, 5, 6],
    }


def read(dataset: object, folder: Path) -> COCO:
    file = folder / "dataset.json"
    file.write_text(json.dumps(dataset))
    return COCO(str(file))


def test_coco_dataset_is_read_by_pycocotools_with_equal_masks(tmp_path: Path) -> None:
    result = result_of(mask_of(3, "cell"), mask_of(9, "nucleus", 0.75), mask_of(20, "cell"))
    coco = read(coco_dataset("a/b.png", result), tmp_path)
    assert coco.loadImgs(1) == [{"id": 1, "file_name": "a/b.png", "height": 20, "width": 30}]
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=1))
    assert [names[one["category_id"]] for one in annotations] == ["cell", "nucleus", "cell"]
    for annotation, (_, _, mask) in zip(annotations, result.each(), strict=True):
        assert (coco.annToMask(annotation).astype(bool) == mask.array).all()
        assert annotation["score"] == mask.score and annotation["area"] == 28
        assert annotation["bbox"] == [mask.box[0], 2, 4, 7]


def test_coco_dataset_works_in_coco_evaluation(tmp_path: Path) -> None:
    coco = read(coco_dataset("x.png", result_of(mask_of(3), mask_of(12))), tmp_path)
    evaluation = COCOeval(coco, coco.loadRes(coco.dataset["annotations"]), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_merge_coco_renumbers_ids_and_joins_categories(tmp_path: Path) -> None:
    first = coco_dataset("one.png", result_of(mask_of(3, "cell"), mask_of(9, "nucleus")))
    second = coco_dataset("two.png", result_of(mask_of(5, "nucleus"), mask_of(20)))
    nothing = coco_dataset("none.png", result_of())
    coco = read(merge_coco([first, nothing, merge_coco([second])]), tmp_path)
    assert [image["file_name"] for image in coco.loadImgs([1, 2, 3])] == [
        "one.png",
        "none.png",
        "two.png",
    ]
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    assert list(names.values()) == ["cell", "nucleus", "entity"]
    summary = [
        (one["image_id"], names[one["category_id"]], one["bbox"][0])
        for one in coco.loadAnns(coco.getAnnIds())
    ]
    assert summary == [(1, "cell", 3), (1, "nucleus", 9), (3, "nucleus", 5), (3, "entity", 20)]
    assert len(set(coco.getAnnIds())) == 4


def test_coco_dataset_of_masks_without_pixels_is_rejected() -> None:
    bare = Mask(SIZE, "", 0.5, (0, 0, 1, 1), 1)
    with pytest.raises(ContractError, match="ask for another mask_format"):
        coco_dataset("x.png", result_of(bare))


RESULT = result_of(mask_of(3, "cell"), mask_of(9, "nucleus", 0.75), mask_of(20, "cell"))


def test_detection_arrays_have_equal_lengths_in_result_order() -> None:
    arrays = detection_arrays(RESULT)
    assert arrays["xyxy"].dtype == np.float32
    assert arrays["xyxy"].tolist() == [[3, 2, 7, 9], [9, 2, 13, 9], [20, 2, 24, 9]]
    assert arrays["mask"].shape == (3, *SIZE) and arrays["mask"].dtype == np.bool_
    for drawn, (_, _, mask) in zip(arrays["mask"], RESULT.each(), strict=True):
        assert (drawn == mask.array).all()
    assert arrays["confidence"].tolist() == [0.5, 0.75, 0.5]
    assert arrays["class_id"].tolist() == [0, 1, 0]
    assert arrays["data"]["class_name"].tolist() == ["cell", "nucleus", "cell"]
    assert arrays["data"]["prompt_index"].tolist() == [0, 1, 2]


def test_detection_arrays_use_the_given_class_order() -> None:
    names = ["nucleus", "other", "cell"]
    assert detection_arrays(RESULT, names)["class_id"].tolist() == [2, 0, 2]
    with pytest.raises(ContractError, match="class_names: got nucleus, expected cell, nucleus"):
        detection_arrays(RESULT, ["nucleus"])


def test_detection_arrays_of_an_empty_result_have_the_right_shapes() -> None:
    arrays = detection_arrays(result_of())
    assert arrays["xyxy"].shape == (0, 4) and arrays["mask"].shape == (0, *SIZE)
    assert arrays["confidence"].shape == arrays["class_id"].shape == (0,)


def test_detections_without_supervision_name_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="supervision: got no such package.*pip install superv"):
        detections_of(RESULT)


def test_detections_are_accepted_by_supervision() -> None:
    detections = detections_of(RESULT)
    assert isinstance(detections, supervision.Detections) and len(detections) == 3
    assert detections.area.tolist() == [28, 28, 28]
    assert detections["class_name"].tolist() == ["cell", "nucleus", "cell"]
    assert len(detections[detections.confidence > 0.6]) == 1
    assert len(detections_of(result_of())) == 0
