"""Readers of folders, images and masks of a dataset, with errors that name file and fix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cpcsam.errors import DataError
from cpcsam.images.formats import IMAGE_SUFFIXES
from cpcsam.images.intensity import eight_bits
from training.data.datasets.items import Findings
from training.data.sample import read_image

__all__ = [
    "entities_of",
    "find_folder",
    "images_in",
    "natural_key",
    "read_binary",
    "read_rgb",
    "read_values",
    "size_fits",
]

RAW_SUFFIX = ".img"
RAW_SIDE = 2048
RAW_WHITE = 4095
SUFFIXES = {*IMAGE_SUFFIXES, RAW_SUFFIX}
LOSSY = {"JPEG", "WEBP"}
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that are no images, cut short or too large to be meant."""


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a natural sort key, under which 2 comes before 10."""
    parts = re.findall(r"\d+|\D+", text)
    # Numbers and text get tuples of one shape: an int and a str cannot be compared.
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def find_folder(root: Path, *candidates: str) -> Path:
    """Find the first existing folder of a list, `A/B` below root, ignoring case.

    Raises:
        DataError: there is none.
    """
    for candidate in candidates:
        folder: Path | None = root
        for part in Path(candidate).parts:
            folder = folder and _child(folder, part)
        if folder is not None:
            return folder
    raise DataError.of(
        str(root),
        got="no such folder" if not root.is_dir() else f"no folder {candidates[0]}",
        expected=" or ".join(candidates),
        fix="give the folder that the dataset was unpacked in",
    )


def _child(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        return None
    if (folder / name).is_dir():
        return folder / name
    alike = (path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower())
    return next((path for path in alike if path.is_dir()), None)


def images_in(folder: Path) -> list[Path]:
    """List the images of a folder in natural order.

    Raises:
        DataError: there are none.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise DataError.of(
            str(folder), got="no images", expected="image files", fix="unpack the images there"
        )
    return sorted(paths, key=lambda path: natural_key(path.stem))


def read_rgb(path: Path, findings: Findings) -> NDArray[np.uint8] | None:
    """Read an image as (H, W, 3) uint8, as serving reads it.

    JSRT's own `*.IMG` are 2048 x 2048 values of 12 bits in two bytes, the higher one first, with
    bright as low.
    """
    try:
        if path.suffix.lower() == RAW_SUFFIX:
            values = np.frombuffer(path.read_bytes(), ">u2").reshape(RAW_SIDE, RAW_SIDE)
            grey = eight_bits(RAW_WHITE - values.astype(np.int16), findings.options.intensity)
            return np.repeat(grey[:, :, None], 3, axis=2)
        return read_image(path, findings.options)
    except DataError as error:
        findings.add(error)
    except (OSError, ValueError) as error:
        _unreadable(path, "an image", error, findings)
    return None


def read_binary(path: Path, findings: Findings) -> NDArray[np.bool_] | None:
    """Read a binary mask, (H, W) bool.

    What is brighter than half of the brightest grey counts, in a lossy format what is brighter
    than half of white.
    """
    try:
        with Image.open(path) as file:
            lossy = file.format in LOSSY
            grey = np.asarray(file.convert("L"))
    except UNREADABLE as error:
        _unreadable(path, "a mask", error, findings)
        return None
    mask: NDArray[np.bool_] = grey > (127 if lossy else grey.max() / 2)
    return mask


def read_values(path: Path, findings: Findings) -> NDArray[np.int32] | None:
    """Read a mask of indexed values, (H, W) int32."""
    try:
        with Image.open(path) as file:
            values = np.asarray(file)
    except UNREADABLE as error:
        _unreadable(path, "a mask", error, findings)
        return None
    if values.ndim == 3:
        # Two channels are grey and opacity.
        values = values[:, :, :1] if values.shape[2] == 2 else values
        if (values[:, :, :3] != values[:, :, :1]).any():
            findings.broken(
                path,
                got="a coloured mask",
                expected="one channel whose values are the classes",
                fix="save it as an indexed or grey image",
            )
            return None
        values = values[:, :, 0]
    return values.astype(np.int32)


def _unreadable(path: Path, expected: str, error: Exception, findings: Findings) -> None:
    missing = isinstance(error, FileNotFoundError)
    got = "no such file" if missing else f"an unreadable file ({error or type(error).__name__})"
    findings.broken(path, got=got, expected=expected, fix="restore it from the download")


def size_fits(path: Path, mask: NDArray[Any], shape: tuple[int, ...], findings: Findings) -> bool:
    """Return whether a mask has its image's size (H, W); record a finding if not."""
    if mask.shape == shape:
        return True
    findings.broken(
        path,
        got=f"size {mask.shape}",
        expected=f"{shape} as its image",
        fix="restore the mask that belongs to the image",
    )
    return False


def entities_of(
    values: NDArray[np.int32], classes: Mapping[int, str]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Split classes into entities: connected components of 8 neighbours.

    Args:
        values: (H, W); values without a class are background.
        classes: class of each value.

    Returns:
        Labels, (H, W) int32, and the class of each.
    """
    instances = np.zeros(values.shape, np.int32)
    names: list[str] = []
    # find_objects returns as many places as the highest value, so stray values are removed first.
    known = np.where((values > 0) & (values <= max(classes, default=0)), values, 0)
    for value, place in enumerate(ndimage.find_objects(known), start=1):
        if place is not None and value in classes:
            parts, count = ndimage.label(known[place] == value, np.ones((3, 3)))
            instances[place] = np.where(parts > 0, parts + len(names), instances[place])
            names += [classes[value]] * count
    return instances, tuple(names)
