"""Readers of images and masks of a dataset, with errors that name file and fix."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from cpcsam.errors import CpcSamError, DataError
from cpcsam.images.intensity import eight_bits
from cpcsam.images.reading import read_header
from training.data.datasets.account import Unit
from training.data.datasets.folders import RAW_SUFFIX
from training.data.datasets.items import Findings
from training.data.datasets.masks import (
    SOFT,
    edges_of,
    opaque_part,
    raw_values,
)
from training.data.labels import whole_labels
from training.data.sample import read_image

__all__ = [
    "UNREADABLE",
    "entities_of",
    "read_binary",
    "read_rgb",
    "read_values",
    "size_fits",
]

RAW_SIDE = 2048
RAW_WHITE = 4095
MOST_PIXELS = 1 << 26
LOSSY = {"JPEG", "WEBP"}
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    MemoryError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are no images, cut short or too large to be meant."""


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
        pixels = read_image(path, findings.options)
        findings.account.take("pages")
        if findings.options.page is not None:
            findings.account.pass_over("pages", "not chosen", _pages(path) - 1)
        return pixels
    except DataError as error:
        findings.account.lose("pages", "of files of several, none chosen", _pages(path) - 1)
        findings.add(error)
    except UNREADABLE as error:
        _unreadable(path, "an image", error, findings)
    return None


def _pages(path: Path) -> int:
    """Return the number of pages of an image file, 1 if it cannot be read."""
    try:
        return read_header(path.read_bytes()).pages
    except (CpcSamError, *UNREADABLE):
        return 1


def read_binary(path: Path, findings: Findings) -> NDArray[np.bool_] | None:
    """Read a binary mask, (H, W) bool.

    What is brighter than half of the brightest grey counts, in a lossy format what is brighter
    than half of white; of an image whose shape is in its opacity alone, what is opaque. A label
    image is refused: its dark labels would be lost.
    """
    try:
        with Image.open(path) as file:
            lossy = file.format in LOSSY
            count_pages(path, file, findings)
            grey = _grey(file)
    except UNREADABLE as error:
        _unreadable(path, "a mask", error, findings, "annotations")
        return None
    top = grey.max(initial=0)
    mask: NDArray[np.bool_] = grey == top
    if not lossy and np.count_nonzero(mask) == np.count_nonzero(grey):
        return mask
    edges = edges_of(grey, lossy)
    if edges == "labels":
        findings.broken(
            path,
            got="several grey levels, as of a label image",
            expected="a black and white mask",
            fix="save one mask an entity, or a label image as PNG in masks/",
            unit="annotations",
            reason="label images in place of masks",
        )
        return None
    if edges == "soft" and not lossy:
        findings.account.changed[SOFT] += 1
    half = top / 2 if grey.dtype.kind == "f" else top // 2
    mask = grey > (127 if lossy else half)
    return mask


def _grey(file: Image.Image) -> NDArray[Any]:
    """Return the greys of an opened mask, (H, W), at least 0."""
    if file.mode.startswith(("I", "F")):
        values = raw_values(file)
        return np.maximum(np.nan_to_num(values, nan=0), 0)
    if file.mode in {"RGBA", "LA", "PA"} or "transparency" in file.info:
        colours = file.convert("RGBA")
        values = np.asarray(colours)
        opacity = opaque_part(values)
        grey = np.asarray(colours.convert("L"))
        return np.where(values[:, :, 3] > 0, grey, 0) if opacity is None else opacity
    return np.asarray(file.convert("L"))


def read_values(path: Path, findings: Findings, renumber: bool = False) -> NDArray[np.int32] | None:
    """Read a mask of indexed values, (H, W) int32, as `whole_labels` converts them."""
    try:
        values = _values(path, findings)
    except UNREADABLE as error:
        _unreadable(path, "a mask", error, findings, "annotations")
        return None
    if values.ndim == 3:
        opacity = opaque_part(values) if values.shape[2] in (2, 4) else None
        if opacity is not None:
            binary: NDArray[np.int32] = (opacity > opacity.max() / 2).astype(np.int32)
            return binary
        # Two channels are grey and opacity.
        values = values[:, :, :1] if values.shape[2] == 2 else values
        if (values[:, :, :3] != values[:, :, :1]).any():
            findings.broken(
                path,
                got="a coloured mask",
                expected="one channel whose values are the classes",
                fix="save it as an indexed or grey image",
                unit="annotations",
                reason="coloured",
            )
            return None
        values = values[:, :, 0]
    labels, changes = whole_labels(values, renumber)
    findings.account.changed.update(changes)
    return labels


def _values(path: Path, findings: Findings) -> NDArray[Any]:
    """Return the pixels of a mask; TIFF of types that Pillow lacks, such as int64, by tifffile."""
    try:
        with Image.open(path) as file:
            count_pages(path, file, findings)
            return raw_values(file)
    except UnidentifiedImageError:
        if path.suffix.lower() not in {".tif", ".tiff"}:
            raise
        with tifffile.TiffFile(path) as stack:
            page = stack.pages[0]
            # A damaged header can promise any number.
            if math.prod(page.shape) > MOST_PIXELS:
                raise
            findings.account.take("pages")
            return page.asarray()


def count_pages(path: Path, file: Image.Image, findings: Findings) -> None:
    """Count the pages of an opened file, of which the first is read."""
    findings.account.take("pages")
    further = getattr(file, "n_frames", 1) - 1
    if further > 0:
        findings.lose(
            path,
            got=f"{further + 1} pages",
            expected="one",
            fix="save each page as a file; the first is read",
            unit="pages",
            reason="after the first of a file",
            count=further,
        )


def _unreadable(
    path: Path, expected: str, error: Exception, findings: Findings, unit: Unit | None = None
) -> None:
    missing = isinstance(error, FileNotFoundError)
    got = "no such file" if missing else f"an unreadable file ({error or type(error).__name__})"
    findings.broken(
        path, got=got, expected=expected, fix="restore it from the download",
        unit=unit, reason="unreadable",
    )  # fmt: skip


def size_fits(path: Path, mask: NDArray[Any], shape: tuple[int, ...], findings: Findings) -> bool:
    """Return whether a mask has its image's size (H, W); record a finding if not."""
    if mask.shape == shape:
        return True
    findings.broken(
        path,
        got=f"size {mask.shape}",
        expected=f"{shape} as its image",
        fix="restore the mask that belongs to the image",
        unit="annotations",
        reason="of another size",
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
