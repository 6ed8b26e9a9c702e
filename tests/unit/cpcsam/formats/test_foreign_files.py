"""Annotations as other programs name and store them, and files that no program should write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cpcsam.errors import ContractError, DataError
from cpcsam.formats import format_of
from cpcsam.formats.brush_runs import decode_brush
from cpcsam.formats.coco import masks_of
from cpcsam.formats.label_studio import read
from cpcsam.formats.writing import write_format
from cpcsam.formats.yolo_names import class_names
from tests.support.format_records import image_record


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("train/images/a", "images/train/labels/a.txt"),
        ("images/a", "images/labels/a.txt"),
        ("labels/a", "labels/labels/a.txt"),
        ("train/a", "labels/train/a.txt"),
    ],
)
def test_yolo_labels_lie_where_ultralytics_looks_for_them(
    name: str, labels: str, tmp_path: Path
) -> None:
    image = replace(image_record(tmp_path), name=name, file_name=f"{name}.png")
    write_format([image], "yolo-seg", tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*.txt")
    assert file.relative_to(tmp_path / "out").as_posix() == labels
    (listed,) = format_of("yolo-seg").read(tmp_path / "out")
    assert listed.file_name == f"images/{name}.png"


def test_yolo_names_beyond_16_bits_are_read_again(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    names = ["\U0001f9ec", "zell\xe9 \x85 \x7f", 'a "quoted\\" name']
    image = image_record(tmp_path)
    masks = [replace(image.masks[0], label=name) for name in names]
    write_format([replace(image, masks=masks)], "yolo-seg", tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert content["names"] == dict(enumerate(names))


def test_yolo_classes_are_numbered_by_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cell\n\nnucleus\n")
    assert class_names(tmp_path, tmp_path) == {0: "cell", 2: "nucleus"}


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [3]},
        {"size": [4, 4], "counts": [3, 40]},
        {"size": [4, 4], "counts": ["3"]},
        {"size": [4, 4], "counts": 5},
        {"size": [4, 4], "counts": ""},
        [[]],
        [["a"]],
        [[1]],
        [[1, 1, 3, 3]],
        {"size": [[], 4], "counts": "a"},
        [[None] * 6],
        [[0, 0, 0, 1e12, 3, 3]],
        [[0, 0, 0, 10**400, 3, 3]],
        [],
        None,
    ],
)
def test_coco_annotation_that_is_no_mask_is_told(segmentation: Any) -> None:
    with pytest.raises(DataError, match="annotation 7 that is no mask"):
        masks_of(Path("x.json"), [{"id": 7, "segmentation": segmentation}], ["cell"], (4, 4))


@pytest.mark.parametrize(
    "members",
    [
        {"annotations": ["x"]},
        {"annotations": [{"result": [{"type": "brushlabels", "value": "x"}]}]},
        {"annotations": 5, "predictions": [None]},
    ],
)
def test_label_studio_tasks_of_another_form_have_no_masks(
    members: dict[str, Any], tmp_path: Path
) -> None:
    tasks = [{"data": {"image": "/data/upload/1/a.png"}, **members}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    (listed,) = read(tmp_path)
    assert listed.classes == ()


@pytest.mark.parametrize("data", [[300], [-1], ["a"], [None], [], 5])
def test_brush_that_is_no_bytes_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_brush(data, (4, 4))


@pytest.mark.parametrize("size", ["x", [1], [1, "x"], [None, 2], {"x": 1}])
def test_geojson_of_a_size_that_is_none_is_told(size: Any, tmp_path: Path) -> None:
    collection = {"type": "FeatureCollection", "image": {"size": size}, "features": []}
    (tmp_path / "a.geojson").write_text(json.dumps(collection))
    with pytest.raises(DataError, match="got the size"):
        list(format_of("geojson").read(tmp_path))


def test_geojson_scores_and_names_of_another_kind_are_none(tmp_path: Path) -> None:
    square = {"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]}
    feature = {"geometry": square, "properties": {"measurements": {"score": "high"}}}
    collection = {"image": {"file_name": 3}, "features": [feature]}
    (tmp_path / "a.geojson").write_text(json.dumps(collection))
    (listed,) = format_of("geojson").read(tmp_path)
    (mask,) = listed.decode((4, 4))
    assert (listed.file_name, mask.score, mask.crop.sum()) == ("a", None, 4)


@pytest.mark.parametrize("name", ["a\x01b", "z\udce9", "\uffff"])
def test_cvat_refuses_names_that_xml_cannot_hold(name: str, tmp_path: Path) -> None:
    image = image_record(tmp_path)
    labelled = replace(image, masks=[replace(image.masks[0], label=name)])
    for wrong in (replace(image, file_name=name), labelled):
        with pytest.raises(ContractError, match="rename the image"):
            write_format([wrong], "cvat", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cvat_run_length_beyond_64_bits_is_told(tmp_path: Path) -> None:
    write_format([image_record(tmp_path)], "cvat", tmp_path / "out")
    file = tmp_path / "out/annotations.xml"
    file.write_text(file.read_text().replace('rle="', f'rle="{10**20}, ', 1))
    (listed,) = format_of("cvat").read(tmp_path / "out")
    with pytest.raises(DataError, match="a damaged mask"):
        list(listed.decode((40, 60)))


@pytest.mark.parametrize("name", ["zell\xe9 & \U0001f9ec.png", "z\udce9.png"])
def test_label_studio_names_images_of_any_name(name: str, tmp_path: Path) -> None:
    write_format(
        [replace(image_record(tmp_path), file_name=name)], "label-studio", tmp_path / "out"
    )
    (listed,) = read(tmp_path / "out")
    (task,) = json.loads((tmp_path / "out/tasks.json").read_text())
    assert listed.file_name == name
    query = urlsplit(task["data"]["image"]).query
    assert parse_qs(query, errors="surrogateescape")["d"] == [name]
