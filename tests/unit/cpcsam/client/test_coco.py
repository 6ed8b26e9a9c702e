"""COCO datasets are read by pycocotools, and merging keeps each mask's image and category."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cpcsam.client.coco import coco_dataset, merge_coco
from cpcsam.client.masks import Mask, encode_run_lengths
from cpcsam.client.prompts import Prompt
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError

SIZE = (20, 30)


def mask_of(x: int, label: str = "", score: float = 0.5) -> Mask:
    array = np.zeros(SIZE, bool)
    array[2:9, x : x + 4] = True
    counts, box = encode_run_lengths(array), (float(x), 2.0, float(x + 4), 9.0)
    return Mask(SIZE, counts, score, box, int(array.sum()), label)


def result_of(*masks: Mask) -> SegmentResult:
    prompts = tuple(Prompt.click(mask.box[0], mask.box[1]) for mask in masks)
    return SegmentResult("", SIZE, prompts, tuple((mask,) for mask in masks), "segment", "3", {})


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
