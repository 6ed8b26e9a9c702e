"""Folders of all formats are read by the tools that they are for, with equal masks."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpcsam.formats import FORMATS
from cpcsam.formats.writing import write_format
from tests.support.annotators import annotator
from tests.support.format_records import LABELS, MASKS, SIZE, image_record

EXPECTED = np.array(list(MASKS.values()))
SCORES = [0.9 - 0.1 * index for index in range(len(MASKS))]
Answer = tuple[dict[str, NDArray[np.bool_]], dict[str, Any]]


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """Masks by reader, and what else it told."""
    python = annotator("formats") / "bin/python"
    folder = tmp_path_factory.mktemp("formats")
    image = image_record(folder)
    for name in FORMATS:
        write_format([image], name, folder / name)
    # Datumaro reads annotations only beside their images.
    (folder / "cvat/images/deep").mkdir(parents=True)
    shutil.copyfile(folder / "deep/a.png", folder / "cvat/images/deep/a.png")
    script = Path(__file__).with_name("read_formats.py")
    words = [str(python), "-W", "ignore", str(script), str(folder), str(folder / "out.npz")]
    done = subprocess.run(
        words, cwd=folder, env={}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays), json.loads(done.stdout)


@pytest.mark.parametrize("reader", ["shapely", "label-studio-sdk", "cvat-sdk", "datumaro"])
def test_masks_are_equal_pixel_by_pixel(answer: Answer, reader: str) -> None:
    assert (answer[0][reader] == EXPECTED).all()


def test_yolo_masks_are_equal_but_for_the_line_between_parts(answer: Answer) -> None:
    masks, told = answer[0]["supervision"], answer[1]["supervision"]
    for mask, (name, expected) in zip(masks, MASKS.items(), strict=True):
        assert (mask == expected).all() == (name != "parts")
        assert not (expected & ~mask).any()
    assert told["labels"] == list(LABELS)


def test_geojson_is_valid_and_keeps_holes(answer: Answer) -> None:
    told = answer[1]["shapely"]
    assert all(told["valid"])
    assert told["areas"] == EXPECTED.sum((1, 2)).tolist()
    assert told["holes"] == [0, 3, 2, 0, 0, 0, 0]


def test_label_studio_accepts_prediction_and_interface(answer: Answer) -> None:
    told = answer[1]["label-studio-sdk"]
    assert told["valid"] is True and told["labels"] == list(LABELS)
    assert told["image"] == "/data/local-files/?d=deep/a.png"


def test_cvat_encodes_the_masks_as_we_do(answer: Answer) -> None:
    assert answer[1]["cvat-sdk"]["encoded"] == [True] * len(MASKS)
    told = answer[1]["datumaro"]
    assert told["labels"] == list(LABELS)
    assert [float(score) for score in told["scores"]] == pytest.approx(SCORES)


def test_ome_zarr_has_image_labels_and_properties(answer: Answer) -> None:
    masks, told = answer[0]["ome-zarr"], answer[1]["ome-zarr"]
    assert told["axes"] == [["y", "x"]] * 2 and np.array(told["image"]).shape == (3, *SIZE)
    order = [about["prompt_index"] for about in told["properties"]]
    assert sorted(order) == list(range(len(MASKS)))
    assert (masks == EXPECTED[order]).all()
    for index, about in zip(order, told["properties"], strict=True):
        assert about["class"] == LABELS[index]
        assert about["score"] == pytest.approx(SCORES[index])
