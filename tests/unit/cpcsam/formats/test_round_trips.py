"""What a format's writer writes its reader reads; what it cannot hold is counted."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from skimage.io import imread

from cpcsam.errors import ConfigError, ContractError
from cpcsam.formats import FORMATS, MARKER, format_of
from cpcsam.formats.index import paint
from cpcsam.formats.records import ImageRecord, Losses, MaskRecord
from cpcsam.formats.writing import check_target, write_format
from tests.support.format_records import LABELS, MASKS, SIZE, image_record

HOLDS = {
    "coco": {"label", "score", "stability", "prompt_index", "prompt"},
    "png": set(),
    "index": set(),
    "yolo-seg": {"label"},
    "geojson": {"label", "score", "stability", "prompt_index", "prompt"},
    "label-studio": {"label", "score"},
    "cvat": {"label", "score", "stability"},
    "ome-zarr": {"label", "score", "stability", "prompt_index"},
}
FIELDS = {"label": "class labels", "score": "scores", "stability": "stability scores"}
INEXACT = {"index": "over", "yolo-seg": "parts"}
"""The mask that a format does not hold exactly."""


@pytest.mark.parametrize("name", FORMATS)
def test_masks_and_fields_are_read_again_or_counted(name: str, tmp_path: Path) -> None:
    image = image_record(tmp_path, with_empty=True)
    summary = write_format([image], name, tmp_path / name)
    assert (summary.images, summary.masks) == (1, 8)
    (listed,) = format_of(name).read(tmp_path / name)
    read = pickle.loads(pickle.dumps(listed)).decode(SIZE)
    masks = [mask for mask in read if mask.counts]
    if name == "ome-zarr":  # ordered by layer
        masks.sort(key=lambda mask: -(mask.score or 0))
    assert len(masks) == len(MASKS)
    for mask, (shape, array), label, sent in zip(
        masks, MASKS.items(), LABELS, image.masks, strict=False
    ):
        assert (mask.array(SIZE) == array).all() == (INEXACT.get(name) != shape), shape
        assert mask.label == (label if "label" in HOLDS[name] else "entity")
        for field in ("score", "stability", "prompt_index", "prompt"):
            expected = getattr(sent, field) if field in HOLDS[name] else None
            assert getattr(mask, field) == expected, field
    for field, words in FIELDS.items():
        assert (summary.lost.get(words, 0) > 0) == (field not in HOLDS[name])
    assert (name in ("coco", "png")) != ("masks without a pixel" in summary.lost)
    assert listed.file_name.removeprefix("images/").removesuffix(".png") == "deep/a"


def test_index_of_overlaps_shows_the_higher_score_and_counts_the_rest(tmp_path: Path) -> None:
    write_format([image_record(tmp_path)], "index", tmp_path / "index")
    labels = imread(tmp_path / "index/deep/a.png")
    with Image.open(tmp_path / "index/deep/a.png") as picture:
        assert picture.mode == "L" and (np.asarray(picture) == labels).all()
    hidden = MASKS["over"] & (MASKS["plain"] | MASKS["holes"])
    for number, (name, mask) in enumerate(MASKS.items(), start=1):
        assert ((labels == number) == (mask & ~hidden if name == "over" else mask)).all()
    lost = json.loads((tmp_path / "index" / MARKER).read_text())["lost"]
    assert lost["pixels hidden by masks of a higher score"] == hidden.sum() > 0
    assert lost["masks that are partly hidden"] == 1
    assert "masks that are wholly hidden" not in lost


def test_index_of_many_masks_has_16_bits_and_a_limit() -> None:
    masks = [
        MaskRecord.of_mask(np.ones((1, 1), bool), (row, column))
        for row in range(20)
        for column in range(20)
    ]
    image = ImageRecord("a.png", "a", (20, 20), masks)
    labels = paint(image, Losses())
    assert labels.dtype == np.uint16 and (labels.ravel() == np.arange(1, 401)).all()
    with pytest.raises(ContractError, match="at most 65535"):
        paint(ImageRecord("a.png", "a", (20, 20), masks * 164), Losses())


def test_yolo_counts_parts_and_equal_masks(tmp_path: Path) -> None:
    image = image_record(tmp_path)
    image = ImageRecord("a.png", "a", SIZE, [*image.masks, image.masks[0]])
    lost = write_format([image], "yolo-seg", tmp_path / "yolo").lost
    assert lost["masks of several parts, which are joined by lines"] == 1
    assert lost["pixels of these lines"] > 0
    assert lost["masks equal to another, of which Ultralytics reads one"] == 1
    assert lost["images that are not at hand; put them into images/"] == 1


def test_coco_is_read_by_pycocotools_with_ids_from_1(tmp_path: Path) -> None:
    images = [image_record(tmp_path, name) for name in ("a", "b")]
    write_format(images, "coco", tmp_path / "coco")
    coco = COCO(str(tmp_path / "coco/coco.json"))
    assert coco.getAnnIds() == list(range(1, 15)) and coco.getImgIds() == [1, 2]
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=2)):
        mask = list(MASKS.values())[annotation["id"] - 8]
        assert (coco.annToMask(annotation) == mask).all() and annotation["iscrowd"] == 0
        assert annotation["area"] == mask.sum()


@pytest.mark.parametrize("name", FORMATS)
def test_format_without_masks_is_written(name: str, tmp_path: Path) -> None:
    summary = write_format([ImageRecord("a.png", "a", SIZE, [])], name, tmp_path / "out")
    assert (summary.images, summary.masks) == (1, 0)


def test_folder_of_others_is_left_alone_and_an_own_one_replaced(tmp_path: Path) -> None:
    image = image_record(tmp_path)
    write_format([image], "png", tmp_path / "out")
    write_format([ImageRecord("b.png", "b", SIZE, image.masks[:1])], "png", tmp_path / "out")
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")}
    assert files == {"b/001.png", MARKER}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="a folder with other files"):
        write_format([image], "png", tmp_path / "mine")
    for place in (tmp_path / "mine/notes.txt", tmp_path / "mine/notes.txt/below"):
        with pytest.raises(ConfigError, match="give another folder"):
            check_target(place)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_yolo_images_of_suffixes_that_ultralytics_does_not_read_become_png(tmp_path: Path) -> None:
    image = image_record(tmp_path)
    assert image.path is not None
    kept, other = tmp_path / "kept.JPG", tmp_path / "other.jfif"
    for path in (kept, other):
        Image.open(image.path).save(path, "JPEG")
    images = [replace(image, path=path, name=path.stem) for path in (kept, other)]
    write_format(images, "yolo-seg", tmp_path / "out")
    assert (tmp_path / "out/images/kept.JPG").read_bytes() == kept.read_bytes()
    written, shown = Image.open(tmp_path / "out/images/other.png"), Image.open(other)
    assert written.format == "PNG" and written.tobytes() == shown.tobytes()


def test_failed_export_leaves_the_earlier_one(tmp_path: Path) -> None:
    image = image_record(tmp_path)
    write_format([image], "ome-zarr", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    (broken := tmp_path / "deep/a.png").write_bytes(b"no image")
    with pytest.raises(ContractError, match=str(broken)):
        write_format([image], "ome-zarr", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format: got 'tiff', expected coco, png"):
        format_of("tiff")
