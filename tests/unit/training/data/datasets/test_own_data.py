"""Your own folders and COCO lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cpcsam.errors import DataError
from tests.support.dataset_factory import (
    box,
    car,
    classes_in,
    coco_json,
    oceancoco,
    picture,
    polygon,
    run_lengths,
    save,
)
from training.data.datasets.protocol import open_dataset


@pytest.mark.parametrize("named", [True, False])
def test_own_folders_take_values_with_and_without_names(named: bool, tmp_path: Path) -> None:
    car(tmp_path)
    if named:
        (tmp_path / "classes.txt").write_text("car\nwheel\nlight\nwindow\n")
    sample = open_dataset("folders", tmp_path).samples("train")[0]
    expected = {"car": 1, "wheel": 2, "window": 1} if named else {"entity": 3}
    assert classes_in(sample) == expected


def test_own_folders_take_a_folder_a_class(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / f"images/x{index}.png", picture(index))
        save(tmp_path / f"masks/cat/x{index}.png", box(1, 1, 5, 5))
        save(tmp_path / f"masks/dog/x{index}.png", box(10, 10, 5, 5))
    dataset = open_dataset("folders", tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert classes_in(dataset.samples("test")[0]) == {"cat": 1, "dog": 1}


def test_polygons_and_run_lengths_agree(tmp_path: Path) -> None:
    images = [(k, f"{k}.png") for k in (1, 2)]
    shapes = [polygon(4, 4, 9, 9), run_lengths(box(4, 4, 9, 9))]
    rows = [
        {"image_id": key, "category_id": 1, "segmentation": shape}
        for (key, _), shape in zip(images, shapes, strict=True)
    ]
    for key, name in images:
        save(tmp_path / name, picture(key))
    (tmp_path / "mine.json").write_text(json.dumps(coco_json(images, rows, ["thing"])))
    dataset = open_dataset("coco", tmp_path)
    (first,), (second,) = dataset.samples("train"), dataset.samples("test")
    assert np.array_equal(first.instances, second.instances)
    assert first.instances.sum() == 81


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "no 'categories'"),
        (lambda c: c["annotations"][0].update(image_id=99), "no 99"),
        (lambda c: c["images"][0].update(file_name="absent.jpg"), "no image absent.jpg"),
        (lambda c: c["images"][0].update(height="tall"), "no COCO JSON"),
    ],
)
def test_coco_scan_with_broken_list_raises_one_error(
    change: object, message: str, tmp_path: Path
) -> None:
    oceancoco(tmp_path)
    path = tmp_path / "annotations/instances.json"
    content = json.loads(path.read_text())
    change(content)  # type: ignore[operator]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        open_dataset("oceancoco", tmp_path)
    assert str(path) in str(error.value)
