"""Annotations of other tools: what is no mask, has no image or is damaged is named and counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cpcsam.errors import DataError
from tests.support.dataset_factory import SIZE, picture, save
from training.data.datasets.protocol import open_dataset


def images(root: Path, *names: str) -> None:
    for index, name in enumerate(names):
        save(root / name, picture(index))


def test_yolo_of_another_tool_is_read_with_its_names_and_splits(tmp_path: Path) -> None:
    images(tmp_path, "train/images/a.jpg", "train/images/b.jpg", "valid/images/a.jpg")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\nnc: 2\n")
    for name, rows in {
        "train/labels/a.txt": "1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n0 0.5 0.5 0.2 0.2\n",
        "train/labels/b.txt": "",
        "train/labels/gone.txt": "0 0 0 0.5 0 0.5 0.5\n",
        "valid/labels/a.txt": "0 0 0 0.5 0 0.5 0.5\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(rows)
    dataset = open_dataset("yolo-seg", tmp_path)
    assert [item.name for item in dataset.parts["test"]] == ["valid/images/a"]
    assert dataset.classes == ("dog", "cat")
    assert dataset.account.lost["annotations", "no masks"] == 1
    assert dataset.account.lost["images", "without a file"] == 1
    sample = next(item for item in (*dataset.parts["train"], *dataset.parts["validation"])
                  if item.name == "train/images/a").read()  # fmt: skip
    expected = np.zeros(SIZE, bool)
    # Ultralytics' fillPoly draws the boundary, too.
    expected[SIZE[0] // 4 : SIZE[0] // 2 + 1, SIZE[1] // 4 : SIZE[1] // 2 + 1] = True
    assert ((sample.instances > 0) == expected).all() and sample.class_names == ("dog",)


@pytest.mark.parametrize(
    "row",
    ["0 0.1 0.1 0.2", "0 0 0 2 0 2 2", "0 0 0 1.02 0 1 1", "0 0 -0.02 1 0 1 1", "0 0 0 x 0 1 1"],
)
def test_damaged_yolo_row_stops_with_the_file(row: str, tmp_path: Path) -> None:
    images(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"labels/{name}.txt").write_text(row)
    dataset = open_dataset("yolo-seg", tmp_path)
    with pytest.raises(DataError, match=r"labels/a\.txt: got .*correct or remove the row"):
        dataset.parts["train"][0].read()


def test_yolo_polygon_may_reach_beyond_the_image_as_far_as_with_ultralytics(tmp_path: Path) -> None:
    images(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"labels/{name}.txt").write_text("0 0.5 -0.01 1.0000001 -0.01 1.01 1 0.5 1")
    sample = open_dataset("yolo-seg", tmp_path).parts["train"][0].read()
    assert (sample.instances > 0).all(axis=0).tolist() == [
        x >= SIZE[1] // 2 for x in range(SIZE[1])
    ]


def test_label_studio_reads_polygons_and_the_annotation_that_was_not_cancelled(
    tmp_path: Path,
) -> None:
    images(tmp_path, "a.png", "b.png")
    size = {"original_width": SIZE[1], "original_height": SIZE[0]}
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["cell"]}
    good = {"id": "x", "type": "polygonlabels", "value": square, **size}
    box = {"id": "y", "type": "rectanglelabels", "value": {"x": 1}, **size}
    tasks = [
        {
            "data": {"image": f"/data/upload/3/{name}.png"},
            "annotations": [{"was_cancelled": True, "result": []}, {"result": [good, box]}],
        }
        for name in ("a", "b")
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    dataset = open_dataset("label-studio", tmp_path)
    assert dataset.account.lost["annotations", "no masks"] == 2
    sample = dataset.samples("test")[0]
    assert sample.instances[: SIZE[0] // 2, : SIZE[1] // 2].all()
    assert sample.instances.sum() == SIZE[0] * SIZE[1] // 4 and sample.class_names == ("cell",)


def test_cvat_with_runs_that_do_not_fill_the_box_stops_with_the_file(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    mask = '<mask label="cell" rle="3, 4" left="0" top="0" width="4" height="4"/>'
    rows = "".join(
        f'<image id="{k}" name="{name}.png" width="{SIZE[1]}" height="{SIZE[0]}">{mask}'
        '<box label="cell" xtl="0" ytl="0" xbr="2" ybr="2"/></image>'
        for k, name in enumerate("ab")
    )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{rows}</annotations>")
    dataset = open_dataset("cvat", tmp_path)
    assert dataset.account.lost["annotations", "no masks"] == 2
    with pytest.raises(DataError, match=r"annotations\.xml: got a damaged mask .*do not fill"):
        dataset.parts["train"][0].read()


def test_label_studio_tasks_that_nobody_annotated_are_left_out(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["cell"]}
    size = {"original_width": SIZE[1], "original_height": SIZE[0]}
    good = {"id": "x", "type": "polygonlabels", "value": square, **size}
    done = {"a": [{"result": [good]}], "b": [{"result": []}]}
    skipped = {"c": [{"was_cancelled": True, "result": [good]}], "d": []}
    tasks = [
        {"data": {"image": f"/data/upload/3/{name}.png"}, "annotations": annotations}
        for name, annotations in (done | skipped | {"e": []}).items()
    ]
    # A skipped task is that, whatever was predicted.
    tasks[2]["predictions"] = tasks[4]["predictions"] = [{"result": [good]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    dataset = open_dataset("label-studio", tmp_path)
    assert sorted(item.name for part in dataset.parts.values() for item in part) == ["a", "b", "e"]
    assert dataset.account.lost["images", "not annotated"] == 2


@pytest.mark.parametrize(
    ("images_at", "beside", "expected"),
    [
        ("images/{}.tif", "masks/{}.png", "tif"),
        ("images/{}.png", "previews/{}.jpg", "png"),
        ("one/{}.png", "two/{}.jpg", None),
    ],
)
def test_image_of_a_name_without_a_suffix_is_the_only_one_that_is_no_mask(
    images_at: str, beside: str, expected: str | None, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        for place in (images_at, beside):
            images(tmp_path, place.format(name))
        ring = [[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]]
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/{name}.geojson").write_text(
            json.dumps({"type": "FeatureCollection", "features": [feature]})
        )
    if expected is None:
        with pytest.raises(DataError, match="no image of the annotations"):
            open_dataset("geojson", tmp_path)
        return
    dataset = open_dataset("geojson", tmp_path)
    (item,) = dataset.parts["test"]
    assert item.image.suffix == f".{expected}"  # type: ignore[attr-defined]
