"""The set of photographs holds what its README and the guides promise of it."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from tests.support.paths import ROOT
from training.data.datasets.coco import CocoFiles
from training.data.datasets.items import Findings

FOLDER = ROOT / "benchmarks/photographs"
MAX_BYTES = 2_500_000
MAX_SIDE = 512
MAX_OVERLAP = 0.05
"""Of the smaller of two masks of a class, where neither is a part of the other."""

SET: dict[str, Any] = json.loads((FOLDER / "annotations.json").read_text(encoding="utf-8"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
BY_IMAGE: dict[int, list[dict[str, Any]]] = defaultdict(list)
for row in SET["annotations"]:
    BY_IMAGE[row["image_id"]].append(row)

each_image = pytest.mark.parametrize("image", SET["images"], ids=lambda image: image["file_name"])


def names(what: str) -> dict[int, str]:
    """Names of the categories or licences by id."""
    return {row["id"]: row["name"] for row in SET[what]}


def draw(row: dict[str, Any], image: dict[str, Any]) -> NDArray[np.bool_]:
    """Return an annotation's mask, (H, W)."""
    shape, size = row["segmentation"], (image["height"], image["width"])
    if isinstance(shape, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(shape, *size))).astype(bool)
    return coco_mask.decode({**shape, "counts": shape["counts"].encode()}).astype(bool)


def test_the_set_is_as_large_as_promised() -> None:
    assert len(SET["images"]) >= 24 and len(SET["annotations"]) >= 150
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_ids_are_unique_and_known() -> None:
    for what in ("images", "annotations", "categories", "licenses"):
        ids = [row["id"] for row in SET[what]]
        assert len(set(ids)) == len(ids) and min(ids) == 1, what
    images, categories = {row["id"] for row in SET["images"]}, names("categories")
    assert {row["image_id"] for row in SET["annotations"]} == images
    assert {row["category_id"] for row in SET["annotations"]} == {*categories}


def test_every_class_occurs_in_two_images() -> None:
    images = defaultdict(set)
    for row in SET["annotations"]:
        images[row["category_id"]].add(row["image_id"])
    assert [name for key, name in names("categories").items() if len(images[key]) < 2] == []


def test_the_readme_counts_what_is_there() -> None:
    images, kinds = defaultdict(set), names("categories")
    entities: dict[int, int] = defaultdict(int)
    for row in SET["annotations"]:
        images[row["category_id"]].add(row["image_id"])
        entities[row["category_id"]] += 1
    for key, name in kinds.items():
        assert f"| {name} | {entities[key]} | {len(images[key])} |" in README
    assert f"{len(SET['images'])} photographs" in README
    assert f"{len(SET['annotations'])} outlined entities of {len(kinds)} classes" in README


def test_folder_and_list_name_the_same_files() -> None:
    listed = [image["file_name"] for image in SET["images"]]
    assert sorted(path.name for path in (FOLDER / "images").iterdir()) == sorted(listed)


@each_image
def test_origin_and_licence_are_named(image: dict[str, Any]) -> None:
    licence = names("licenses")[image["license"]]
    assert licence.startswith(("CC0", "Public domain"))
    stem = f"| `{Path(image['file_name']).stem}`"
    [line] = [line for line in README.splitlines() if line.startswith(stem)]
    assert f"<{image['source']}>" in line
    assert line.endswith(f"| {licence.removesuffix(' Universal')} |")


@each_image
def test_masks_lie_inside_their_image(image: dict[str, Any]) -> None:
    with Image.open(FOLDER / "images" / image["file_name"]) as picture:
        assert picture.size == (image["width"], image["height"])
        assert max(picture.size) <= MAX_SIDE
    for row in BY_IMAGE[image["id"]]:
        shape = row["segmentation"]
        if isinstance(shape, list):
            for polygon in shape:
                points = np.reshape(polygon, (-1, 2))
                assert (points >= 0).all() and (points <= [image["width"], image["height"]]).all()
        mask = draw(row, image)
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == row["area"] > 0
        ys, xs = np.nonzero(mask)
        x, y, width, height = row["bbox"]
        assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@each_image
def test_masks_of_a_class_overlap_only_as_parts(image: dict[str, Any]) -> None:
    rows = BY_IMAGE[image["id"]]
    masks = {row["id"]: draw(row, image) for row in rows}
    for one, other in combinations(rows, 2):
        related = one.get("part_of") == other["id"] or other.get("part_of") == one["id"]
        if one["category_id"] == other["category_id"] and not related:
            shared = (masks[one["id"]] & masks[other["id"]]).sum()
            assert shared <= MAX_OVERLAP * min(one["area"], other["area"])


@each_image
def test_parts_lie_on_their_wholes(image: dict[str, Any]) -> None:
    rows = {row["id"]: row for row in BY_IMAGE[image["id"]]}
    for row in rows.values():
        if "part_of" in row:
            part, whole = draw(row, image), draw(rows[row["part_of"]], image)
            assert (part & whole).sum() >= (1 - MAX_OVERLAP) * part.sum()


def test_the_loader_reads_every_entity() -> None:
    scan = CocoFiles().scan(FOLDER)
    findings = Findings(strict=False)
    samples = [item.load(findings) for item in scan.items]
    assert findings.errors == []
    assert all(
        sample is not None and len(np.unique(sample.instances)) == len(sample.class_names) + 1
        for sample in samples
    )
