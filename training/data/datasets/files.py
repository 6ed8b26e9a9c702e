"""Readers of images and masks of a dataset, with errors that name file and fix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpcsam.errors import ContractError, DataError
from cpcsam.images.intensity import eight_bits
from cpcsam.images.masks import MaskPixels, read_mask
from cpcsam.images.reading import read_header
from training.data.datasets.folders import RAW_SUFFIX
from training.data.datasets.items import Findings
from training.data.datasets.masks import (
    SOFT,
    edges_of,
    opaque_part,
)
from training.data.labels import whole_labels
from training.data.sample import MAX_FILE_PIXELS, read_image, unreadable_file

__all__ = [
    "entities_of",
    "read_binary",
    "read_rgb",
    "read_values",
    "size_fits",
]

RAW_SIDE = 2048
RAW_WHITE = 4095
LOSSY = {"JPEG", "WEBP"}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


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
    except (OSError, ValueError) as error:
        findings.add(unreadable_file(path, error, "an image"))
    return None


def _pages(path: Path) -> int:
    """Return the number of pages of an image file, 1 if it cannot be read."""
    try:
        return read_header(path.read_bytes()).pages
    except (OSError, ContractError):
        return 1


def read_binary(path: Path, findings: Findings) -> NDArray[np.bool_] | None:
    """Read a binary mask, (H, W) bool.

    What is brighter than half of the brightest grey counts, in a lossy format what is brighter
    than half of white; of an image whose shape is in its opacity alone, what is opaque. A label
    image is refused: its dark labels would be lost.
    """
    pixels = _read_mask(path, findings, as_shown=True)
    if pixels is None:
        return None
    lossy = pixels.header.format in LOSSY
    grey = _grey(pixels)
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


def _grey(pixels: MaskPixels) -> NDArray[Any]:
    """Return the greys of a mask, (H, W), at least 0."""
    values = pixels.values
    grey = _luma(values) if values.shape[2] == 3 else values[:, :, 0]
    if grey.dtype.kind in "fi":
        grey = np.maximum(np.nan_to_num(grey, nan=0), 0)
    if pixels.opacity is None:
        return grey
    opacity = pixels.opacity.values
    opaque = opaque_part(values, opacity)
    return np.where(opacity > 0, grey, 0) if opaque is None else opaque


def _luma(values: NDArray[Any]) -> NDArray[Any]:
    """Return the brightness of colours (H, W, 3) by ITU-R 601-2, (H, W), of the same type."""
    grey = values.astype(np.float32) @ LUMA
    return grey if values.dtype.kind == "f" else np.rint(grey).astype(values.dtype)


def read_values(path: Path, findings: Findings, renumber: bool = False) -> NDArray[np.int32] | None:
    """Read a mask of indexed values, (H, W) int32, as `whole_labels` converts them."""
    pixels = _read_mask(path, findings, as_shown=False)
    if pixels is None:
        return None
    values, opacity = pixels.values, pixels.opacity
    if opacity is not None and not opacity.is_keyed:
        opaque = opaque_part(values, opacity.values)
        if opaque is not None:
            binary: NDArray[np.int32] = (opaque > opaque.max() / 2).astype(np.int32)
            return binary
    if values.shape[2] > 1 and (values != values[:, :, :1]).any():
        findings.broken(
            path,
            got="a coloured mask",
            expected="one channel whose values are the classes",
            fix="save it as an indexed or grey image",
            unit="annotations",
            reason="coloured",
        )
        return None
    labels, changes = whole_labels(values[:, :, 0], renumber)
    findings.account.changed.update(changes)
    return labels


def _read_mask(path: Path, findings: Findings, *, as_shown: bool) -> MaskPixels | None:
    """Read the page of a mask that belongs to the image's, and count the others."""
    chosen = findings.options.page
    try:
        pixels = read_mask(path.read_bytes(), MAX_FILE_PIXELS, chosen, as_shown=as_shown)
    except (OSError, ContractError) as error:
        findings.add(unreadable_file(path, error, "a mask"), "annotations", "unreadable")
        return None
    if pixels.is_partial:
        findings.broken(
            path,
            got=f"a mask of {pixels.header.channels} channels",
            expected="one",
            fix="save the channel that holds the mask",
            unit="annotations",
            reason="of several channels",
        )
        return None
    findings.account.take("pages")
    further = pixels.header.pages - 1
    if further and chosen is not None:
        findings.account.pass_over("pages", "not chosen", further)
    elif further:
        findings.lose(
            path,
            got=f"{further + 1} pages",
            expected="one",
            fix="choose a page, or save each as a file; the first is read",
            unit="pages",
            reason="after the first of a file",
            count=further,
        )
    return pixels


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
