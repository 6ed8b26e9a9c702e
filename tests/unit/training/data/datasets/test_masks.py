"""Masks as drawing tools write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cpcsam.errors import DataError
from tests.support.dataset_factory import classes_in, picture, save
from training.data.datasets.files import read_binary, read_values
from training.data.datasets.items import Findings
from training.data.datasets.masks import SOFT, edges_of
from training.data.datasets.protocol import open_dataset
from training.data.labels import BELOW_ZERO
from training.data.sample import read_pair

SHAPE = (48, 64)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[5:15, 5:15], LABELS[20:35, 20:35], LABELS[5:15, 40:60] = 1, 2, 3
WHITE = (LABELS > 0) * np.uint8(255)


def soft(mask: Any) -> Any:
    image = Image.fromarray(mask).resize((128, 96), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((64, 48), Image.Resampling.BICUBIC))


def jpeg(values: Any) -> Any:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "JPEG", quality=95)
    return np.asarray(Image.open(content))


def test_edges_tell_masks_from_label_images() -> None:
    assert edges_of(np.zeros(SHAPE, np.uint8)) == "hard"
    assert edges_of(WHITE) == edges_of(WHITE // 255) == "hard"
    assert edges_of(soft(WHITE)) == edges_of(soft(WHITE).astype(np.uint16) * 257) == "soft"
    assert edges_of(LABELS) == edges_of(LABELS * 80) == edges_of(LABELS * 85) == "labels"
    few = np.where(LABELS == 3, 412, np.where(LABELS == 2, 410, LABELS * 7)).astype(np.uint16)
    assert edges_of(few) == edges_of(np.where(few > 400, 0, few) + (few == 412) * 200) == "labels"
    assert edges_of((soft(WHITE) * 0.9).astype(np.uint8)) == "soft"
    many = np.arange(255, dtype=np.uint8).repeat(4).reshape(-1, 60) + 1
    assert edges_of(many) == "labels"
    assert edges_of(jpeg(WHITE), lossy=True) == edges_of(jpeg(soft(WHITE)), lossy=True) == "soft"
    assert edges_of(jpeg(LABELS * 80), lossy=True) == "labels"


def test_soft_edges_are_cut_and_told(tmp_path: Path) -> None:
    save(tmp_path / "m.png", soft(WHITE))
    findings = Findings()
    mask = read_binary(tmp_path / "m.png", findings)
    assert mask is not None and (mask != (WHITE > 0)).sum() < 12
    assert findings.account.changed == {SOFT: 1}


def test_deep_masks_are_cut_at_half_of_their_white(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.uint16)
    values[10:20], values[20:30] = 65535, 300
    tifffile.imwrite(tmp_path / "m.tif", values)
    mask = read_binary(tmp_path / "m.tif", Findings())
    assert mask is not None
    assert mask[10:20].all() and not mask[20:].any() and not mask[:10].any()


@pytest.mark.parametrize("scale", [1, 85])
def test_labels_in_a_class_folder_are_refused_by_name(scale: int, tmp_path: Path) -> None:
    save(tmp_path / "cell.png", LABELS * scale)
    with pytest.raises(DataError, match=r"cell\.png: got several grey levels"):
        read_binary(tmp_path / "cell.png", Findings())


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 10, 10)])
@pytest.mark.parametrize("read", [read_binary, read_values])
def test_opacity_is_the_mask_where_colours_are_not(
    colour: tuple[int, int, int], read: Any, tmp_path: Path
) -> None:
    painted = np.zeros((*SHAPE, 4), np.uint8)
    painted[..., :3] = 255
    painted[LABELS > 0] = (*colour, 255)
    save(tmp_path / "m.png", painted)
    assert np.array_equal(read(tmp_path / "m.png", Findings()) > 0, LABELS > 0)
    Image.fromarray(painted).convert("LA").save(tmp_path / "la.png")
    assert np.array_equal(read(tmp_path / "la.png", Findings()) > 0, LABELS > 0)


def test_opacity_is_ignored_where_colours_are_the_mask(tmp_path: Path) -> None:
    opaque = np.dstack([WHITE, WHITE, WHITE, np.full(SHAPE, 255, np.uint8)])
    save(tmp_path / "m.png", opaque)
    mask = read_binary(tmp_path / "m.png", Findings())
    assert np.array_equal(mask, LABELS > 0)


def folder(root: Path, values: Any, name: str = "masks/im{}.tif") -> Path:
    for index in range(3):
        save(root / f"images/im{index}.png", picture(index, SHAPE))
        path = root / name.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            tifffile.imwrite(path, values)
        else:
            Image.fromarray(values).save(path)
    return root


@pytest.mark.parametrize(
    "values",
    [
        LABELS.astype(np.uint32) * 700_000_000,
        LABELS.astype(np.uint32) * 1_400_000_000,
        LABELS.astype(np.uint16) * 20_000,
        LABELS.astype(np.int64) * 10**12,
        LABELS.astype(np.float64),
        LABELS.astype(np.float32),
        np.where(LABELS == 0, np.nan, LABELS - 0.001).astype(np.float32),
    ],
)
def test_labels_of_any_type_and_size_are_entities(values: Any, tmp_path: Path) -> None:
    sample = open_dataset("folders", folder(tmp_path, values)).samples("train")[0]
    assert classes_in(sample) == {"entity": 3}
    assert sample.instances.max() <= 65535
    for label in (1, 2, 3):
        assert len(np.unique(sample.instances[LABELS == label])) == 1


def test_labels_below_0_are_background_and_told(tmp_path: Path) -> None:
    values = np.where(LABELS == 3, -1, LABELS).astype(np.int32)
    item = open_dataset("folders", folder(tmp_path, values)).samples("train").items[0]
    findings = Findings()
    sample = item.load(findings)
    assert sample is not None and classes_in(sample) == {"entity": 2}
    assert findings.account.changed == {BELOW_ZERO: 1}


def test_a_single_label_image_below_0_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "i.png", picture(0, SHAPE))
    tifffile.imwrite(tmp_path / "l.tif", np.where(LABELS == 1, 1, -1).astype(np.int32))
    with pytest.raises(DataError, match=r"l\.tif: label image: got the value -1"):
        read_pair(tmp_path / "i.png", tmp_path / "l.tif")


def test_values_beyond_the_classes_are_no_class(tmp_path: Path) -> None:
    folder(tmp_path, LABELS.astype(np.uint32) * 700_000_000)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"unknown class 21"):
        open_dataset("folders", tmp_path).samples("train")[0]


def test_soft_masks_without_classes_are_one_class(tmp_path: Path) -> None:
    root = folder(tmp_path, soft(WHITE), "masks/im{}.png")
    assert classes_in(open_dataset("folders", root).samples("train")[0]) == {"entity": 3}


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("zellé\r\ndog\r\ncat\r\n".encode("utf-8-sig"), 0),
        ("zellé\ndog\ncat\n".encode("utf-16"), 0),
        ("zellé\ndog\n\ncat".encode("latin-1"), 1),
    ],
)
def test_lists_of_classes_are_read_in_every_encoding(raw: bytes, told: int, tmp_path: Path) -> None:
    folder(tmp_path, LABELS, "masks/im{}.png")
    (tmp_path / "classes.txt").write_bytes(raw)
    dataset = open_dataset("folders", tmp_path)
    assert dataset.classes == ("zellé", "dog", "cat")
    assert dataset.account.changed.total() == told


def test_names_that_differ_in_zeros_stay_apart(tmp_path: Path) -> None:
    for index, name in enumerate(("1", "01", "001", "2")):
        save(tmp_path / f"images/{name}.png", picture(index, SHAPE))
        save(tmp_path / f"masks/cell/{name}.png", np.roll(WHITE, index, axis=1))
    dataset = open_dataset("folders", tmp_path)
    items = [item for part in dataset.parts.values() for item in part]
    assert {item.name for item in items} == {"1", "01", "001", "2"}
    assert len({item.read().instances.tobytes() for item in items}) == 4


def test_files_of_one_name_and_hidden_ones_are_told_or_ignored(tmp_path: Path) -> None:
    folder(tmp_path, LABELS, "masks/im{}.png")
    save(tmp_path / "images/im0.jpg", picture(5, SHAPE))
    (tmp_path / "images/._im1.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "masks/._im1.png").write_bytes(b"\0\5\x16\7")
    dataset = open_dataset("folders", tmp_path)
    assert sum(map(len, dataset.parts.values())) == 3
    assert len(dataset.losses) == 1 and "im0.png: got the name of im0.jpg" in dataset.losses[0]
