"""Index PNG: a label image an image, 0 for background and the number of a mask, from 1.

A pixel has one number: where masks overlap, the one with the higher score is on top. A file has 8
bits, or 16 if there are more than 255 masks. It is grey: readers such as scikit-image's turn a
palette into colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ContractError, DataError, extra
from cpcsam.formats import UNNAMED
from cpcsam.formats.labels import split_labels
from cpcsam.formats.losses import count_fields, drop_empty
from cpcsam.formats.png import encode_png
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord

with extra("client"):
    from PIL import Image

    from cpcsam.images.masks import read_labels

__all__ = ["paint", "read", "write"]

LOST: Final = ("label", "score", "stability", "prompt")
MOST: Final = 65535
"""Masks that 16 bits can number."""


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write `NAME.png`, see `records.Format`.

    Raises:
        ContractError: an image has more than 65,535 masks.
    """
    losses = Losses()
    for image in images:
        labels = paint(image, losses)
        write_atomic(folder / f"{image.name}.png", encode_png(Image.fromarray(labels)))
        count_fields(image.masks, LOST, losses)
    return losses


def paint(image: ImageRecord, losses: Losses) -> NDArray[Any]:
    """Paint the masks of an image as a label image, the highest score on top.

    Args:
        image: at most 65,535 masks.
        losses: takes the pixels that are hidden, and the masks that they are of.

    Returns:
        (H, W) uint8, or uint16 if there are more than 255 masks.

    Raises:
        ContractError: there are more masks.
    """
    count = len(image.masks)
    if count > MOST:
        raise ContractError.of(
            f"masks of {image.file_name}", got=count, expected=f"at most {MOST}",
            fix="write another format",
        )  # fmt: skip
    drop_empty(image.masks, losses)
    labels = np.zeros(image.size, np.uint8 if count < 256 else np.uint16)
    scores = [0.0 if mask.score is None else mask.score for mask in image.masks]
    areas = np.zeros(count + 1, np.int64)
    # Of equal scores the earlier mask is on top.
    for index in sorted(range(count), key=lambda index: (scores[index], -index)):
        mask = image.masks[index]
        crop = mask.crop
        mask.box.crop(labels)[crop] = index + 1
        areas[index + 1] = np.count_nonzero(crop)
    seen = np.bincount(labels.ravel(), minlength=count + 1)
    seen[0] = 0
    hidden = areas - seen
    losses["pixels hidden by masks of a higher score"] += int(hidden.sum())
    losses["masks that are partly hidden"] += int(((hidden > 0) & (seen > 0)).sum())
    losses["masks that are wholly hidden"] += int(((hidden > 0) & (seen == 0)).sum())
    return labels


def read(folder: Path) -> Iterator[ListedImage]:
    """List the label images of a folder, each an image of its path; see `records.Format`."""
    files = sorted(folder.rglob("*.png"))
    if not files:
        raise DataError.of(
            str(folder), got="no *.png", expected="label images", fix="correct the path"
        )
    for file in files:
        labels = _labels(file)
        count = np.count_nonzero(np.unique(labels))
        name = file.relative_to(folder).with_suffix("").as_posix()
        decode = partial(_decode, file)
        yield ListedImage(name, (UNNAMED,) * count, decode, (file,), labels.shape)  # type: ignore[arg-type]


def _decode(file: Path, size: tuple[int, int]) -> Iterator[MaskRecord]:
    labels = _labels(file)
    if labels.shape != size:
        raise DataError.of(
            str(file), got=f"size {labels.shape}", expected=f"{size}", fix="restore the file"
        )
    for _, box, crop in split_labels(labels):
        yield MaskRecord.of_mask(crop, (box.top, box.left))


def _labels(file: Path) -> NDArray[np.int64]:
    try:
        return read_labels(file.read_bytes())
    except ContractError as error:
        raise DataError(f"{file}: {error}") from error
