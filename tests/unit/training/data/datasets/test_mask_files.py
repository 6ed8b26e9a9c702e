"""Masks are read by the reader of images: upright, of the chosen page, with what opacity tells."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cpcsam.errors import DataError
from cpcsam.images.masks import read_mask
from cpcsam.images.options import ReadOptions
from tests.support.dataset_factory import picture
from tests.support.image_files import (
    deep_png,
    files_of_modes,
    oriented_files,
    saved,
    stored,
    tiff,
)
from training.data.datasets.files import read_binary, read_values
from training.data.datasets.items import Findings
from training.data.datasets.protocol import open_dataset
from training.data.sample import ENTITY

SHAPE = (24, 40)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:9, 3:12], LABELS[11:20, 18:37] = 1, 2
WHITE = (LABELS > 0) * np.uint8(255)


def written(root: Path, name: str, data: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_upright_wherever_its_file_states_an_orientation(
    orientation: int, tmp_path: Path
) -> None:
    for case in oriented_files(np.repeat(WHITE[..., None], 3, axis=2), orientation):
        path = written(tmp_path, "m", case.data)
        mask = read_binary(path, Findings())
        assert mask is not None and mask.shape == SHAPE, case.name
        assert (mask == (LABELS > 0)).mean() > (0.999999 if case.is_exact else 0.98), case.name
        if case.is_exact:
            values = read_values(path, Findings())
            assert values is not None and np.array_equal(values > 0, LABELS > 0), case.name


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_image_and_mask_of_one_camera_fit(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for index in range(3):
        for folder, values in {"images": picture(index, SHAPE), "masks": LABELS}.items():
            image = Image.fromarray(stored(values, orientation))
            written(tmp_path, f"{folder}/im{index}.png", saved(image, "PNG", exif=exif))
    sample = open_dataset("folders", tmp_path).samples("train")[0]
    assert sample.size == SHAPE and np.array_equal(sample.instances, LABELS)


def test_images_and_masks_are_paired_in_the_same_sub_folders(tmp_path: Path) -> None:
    for index, name in enumerate(("1", "plate 2/1", "plate 10/1", "plate 10/2", "plate 10/3")):
        for kind, values in {"images": picture(index, SHAPE), "masks": LABELS}.items():
            data = saved(Image.fromarray(values), "PNG")
            written(tmp_path, f"{kind}/{name}.png", data)
    (tmp_path / "images/plate 10/3.png").unlink()
    dataset = open_dataset("folders", tmp_path)
    names = [item.name for part in dataset.parts.values() for item in part]
    assert names == ["1", "plate 2/1", "plate 10/1", "plate 10/2"]
    assert dataset.classes == (ENTITY,) and len(dataset.losses) == 1
    assert "masks/plate 10/3.png: got no image" in dataset.losses[0]


def test_folders_of_classes_stay_so_beside_other_folders_of_images(tmp_path: Path) -> None:
    for index in range(4):
        image = saved(Image.fromarray(picture(index, SHAPE)), "PNG")
        written(tmp_path, f"images/{index}.png", image)
        for name in ("nucleus", "cell"):
            mask = saved(Image.fromarray(WHITE), "PNG")
            written(tmp_path, f"masks/{name}/{index}.png", mask)
    written(tmp_path, "images/nucleus/copy.png", image)
    (tmp_path / "masks/debris").mkdir()  # a class of which there is no entity yet
    dataset = open_dataset("folders", tmp_path)
    assert dataset.classes == ("cell", "debris", "nucleus") and not dataset.losses


def test_names_are_paired_in_any_form_of_unicode(tmp_path: Path) -> None:
    for folder in ("masks", "masks/ä"):
        root = tmp_path / folder.replace("/", "-")
        for index in range(4):
            for kind, form, values in (
                ("images", "NFD", picture(index, SHAPE)),
                (folder, "NFC", WHITE),
            ):
                name = unicodedata.normalize(form, f"größe {index}.png")
                written(root, f"{kind}/{name}", saved(Image.fromarray(values), "PNG"))
        dataset = open_dataset("folders", root)
        # As on disk, by whose order images are parted as they were.
        names = {item.name for part in dataset.parts.values() for item in part}
        assert names == {unicodedata.normalize("NFD", f"größe {index}") for index in range(4)}
        assert not dataset.losses and len(dataset.samples("train")) == 2
        assert dataset.samples("test")[0].instances.any()


def test_images_in_sub_folders_alone_are_told(tmp_path: Path) -> None:
    for kind in ("images/plate", "masks"):
        written(tmp_path, f"{kind}/1.png", saved(Image.fromarray(WHITE), "PNG"))
    with pytest.raises(DataError, match=r"images: got images in sub-folders, such as .*plate/1"):
        open_dataset("folders", tmp_path)


def test_a_mask_follows_the_page_that_is_chosen_of_the_images(tmp_path: Path) -> None:
    pages = np.stack([LABELS, LABELS[::-1], LABELS[:, ::-1]])
    many = tmp_path / "m.tif"
    tifffile.imwrite(many, pages, photometric="minisblack")
    findings = Findings(options=ReadOptions(page=2))
    assert np.array_equal(read_values(many, findings), pages[2])  # type: ignore[arg-type]
    assert findings.account.read["pages"] == 1 and not findings.losses
    assert findings.account.passed["pages", "not chosen"] == 2
    one = written(tmp_path, "one.png", saved(Image.fromarray(LABELS), "PNG"))
    assert np.array_equal(read_values(one, findings), LABELS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"m\.tif: page: got 3, expected 0 to 2"):
        read_values(many, Findings(options=ReadOptions(page=3)))
    unchosen = Findings()
    assert np.array_equal(read_values(many, unchosen), LABELS)  # type: ignore[arg-type]
    assert "m.tif: got 3 pages" in unchosen.losses[0]


def test_opacity_that_follows_from_the_value_says_nothing_beyond_it(tmp_path: Path) -> None:
    image = Image.fromarray(LABELS // 2 * 3)
    grey = written(tmp_path, "l.png", saved(image, "PNG", transparency=0))
    image = Image.fromarray(LABELS // 2 * 3, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette = written(tmp_path, "p.png", saved(image, "PNG", transparency=0))
    for path in (grey, palette):
        values = read_values(path, Findings())
        assert np.array_equal(values, LABELS // 2 * 3)  # type: ignore[arg-type]
        assert np.array_equal(read_binary(path, Findings()), LABELS == 2)  # type: ignore[arg-type]
    # The caller's image keeps its transparency.
    before = dict(image.info)
    read_mask(palette.read_bytes(), as_shown=True)
    assert image.info == before


def test_opacity_is_found_in_every_format_that_stores_it(tmp_path: Path) -> None:
    alpha = np.where(LABELS > 0, 65535, 0).astype(np.uint16)
    white = np.full(SHAPE, 65535, np.uint16)
    eight = np.dstack([white, white, white, alpha]).astype(np.uint8)
    files = {
        "la16.png": deep_png(np.dstack([white, alpha]), 4),
        "rgba16.png": deep_png(np.dstack([white, white, white, alpha]), 6),
        "rgba.tif": tiff(eight, photometric="rgb", extrasamples=["unassalpha"]),
        "la16.tif": tiff(
            np.dstack([white, alpha]), photometric="minisblack", extrasamples=["unassalpha"]
        ),
        "rgba.webp": saved(Image.fromarray(eight), "WEBP", lossless=True, exact=True),
    }
    for name, data in files.items():
        path = written(tmp_path, name, data)
        assert np.array_equal(read_binary(path, Findings()), LABELS > 0), name  # type: ignore[arg-type]
        assert np.array_equal(read_values(path, Findings()), LABELS > 0), name  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16])
def test_white_is_bright_where_files_store_it_as_zero(dtype: Any, tmp_path: Path) -> None:
    white = np.iinfo(dtype).max if dtype is not np.bool_ else True
    inverted = np.where(LABELS > 0, 0, white).astype(dtype)
    path = written(tmp_path, "m.tif", tiff(inverted, photometric="miniswhite"))
    assert np.array_equal(read_binary(path, Findings()), LABELS > 0)  # type: ignore[arg-type]
    if dtype is np.bool_:
        assert np.array_equal(read_values(path, Findings()), LABELS > 0)  # type: ignore[arg-type]


def test_masks_of_every_kind_keep_their_values() -> None:
    for case in files_of_modes(np.random.default_rng(0), *SHAPE):
        shown = read_mask(case.data, as_shown=True).values
        expected = case.values if case.values.ndim == 3 else case.values[..., None]
        assert np.array_equal(shown, expected) or (shown.dtype == bool), case.name
        assert np.array_equal(shown > 0, expected > 0), case.name


def test_a_mask_of_several_channels_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, np.stack([LABELS, LABELS]), imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(DataError, match=r"m\.tif: got a mask of 2 channels"):
        read_values(path, Findings())
