"""Run-length encoding (RLE) of masks in COCO's compressed format, also of crops of an image."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cpcsam.errors import ContractError
from cpcsam.geometry import Box

__all__ = ["mask_from_rle", "rle_from_crop", "rle_from_mask", "runs_from_rle"]

MAX_DIGITS: Final = 7
"""Base-32 digits of the longest run that any image needs."""


def rle_from_mask(mask: NDArray[np.bool_]) -> bytes:
    """Encode a (H, W) mask as COCO compressed run lengths (the `counts` string)."""
    encoded = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return bytes(encoded["counts"])


def mask_from_rle(counts: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode COCO compressed run lengths to a (H, W) mask; the inverse of `rle_from_mask`.

    Raises:
        ContractError: these are not the run lengths of a mask of this size.
    """
    # pycocotools leaves what too few runs do not cover to whatever the memory held before.
    runs_from_rle(counts, size)
    return np.asarray(coco_mask.decode({"counts": counts, "size": list(size)}), bool)


def runs_from_rle(counts: bytes, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return COCO compressed run lengths as numbers.

    Returns:
        (R,) pixels outside and inside the mask, alternately, column by column; H * W in all.

    Raises:
        ContractError: these are not the run lengths of a mask of this size.
    """
    runs, pixels = _runs(counts), size[0] * size[1]
    if (
        runs is None
        or runs.min(initial=0) < 0
        or runs.max(initial=0) > pixels
        or runs.sum() != pixels
    ):
        raise ContractError.of(
            "run lengths",
            got=f"{len(counts)} bytes that do not fill {size[0]} x {size[1]} pixels",
            expected="the counts string of pycocotools.mask.encode",
            fix="encode the mask again",
        )
    return runs


def _runs(counts: bytes) -> NDArray[np.int64] | None:
    """Return the numbers of a counts string; None if it is not well-formed."""
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    if not len(digits):
        return digits
    # A digit holds 5 bits, lowest first; 32: more digits follow; 16 in the last: negative.
    goes_on = (digits & 32) != 0
    if ((digits < 0) | (digits >= 64)).any() or goes_on[-1]:
        return None
    ends = np.flatnonzero(~goes_on)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_DIGITS:
        return None
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * places), starts)
    runs -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)
    # From the fourth on, a run is stored as its difference to the last but one.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.asarray(runs, np.int64)


def rle_from_crop(crop: NDArray[np.bool_], box: Box, size: tuple[int, int]) -> bytes:
    """Encode an image-sized mask that is empty outside a box, without making it.

    Args:
        crop: (h, w) bool, of the box's size.
        box: of the image.
        size: (H, W) of the image.
    """
    columns, rows = np.divmod(_edges(crop), crop.shape[0] + 1)
    # Runs count along columns, so a column's runs begin where the column does.
    bounds = (box.left + columns) * size[0] + box.top + rows
    if box.size[0] == size[0]:  # a run may go on in the next column
        bounds = _joined(bounds)
    end = size[0] * size[1]
    # As from pycocotools, no empty run follows a mask that reaches the last pixel.
    counts = np.diff(np.concatenate([[0], bounds, [end] if end not in bounds[-1:] else []]))
    uncompressed = {"counts": counts.astype(int).tolist(), "size": list(size)}
    return bytes(coco_mask.frPyObjects(uncompressed, *size)["counts"])


def _edges(crop: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where the runs of (h, w) begin and end, in columns of h + 1 pixels."""
    height, width = crop.shape
    # With an empty pixel before all columns and one below each, every run begins and ends within
    # its column, and a single pass over bytes finds both.
    pixels = np.zeros(1 + width * (height + 1), bool)
    pixels[1:].reshape(width, height + 1)[:, :height] = crop.T
    edges: NDArray[np.int64] = np.flatnonzero(pixels[1:] != pixels[:-1])
    return edges


def _joined(bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out positions where one run ends and the next begins."""
    same = bounds[1:] == bounds[:-1]
    kept = np.ones(len(bounds), bool)
    kept[1:] &= ~same
    kept[:-1] &= ~same
    joined: NDArray[np.int64] = bounds[kept]
    return joined
