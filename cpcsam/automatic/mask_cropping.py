"""Upsampling of low-resolution mask logits to an image, cropped to the mask. Plain numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import bbox_from_mask
from cpcsam.contract import MASK_THRESHOLD, STABILITY_OFFSET
from cpcsam.geometry import EMPTY_BOX, Box
from cpcsam.transforms import axis_matrices

__all__ = ["PastedMask", "paste_mask"]

BLOCK: Final = 64
"""Pixels along an axis that are interpolated at once."""


@dataclass(frozen=True)
class PastedMask:
    """A mask in an image, a tile or a crop.

    Attributes:
        bbox: smallest box around it, or `EMPTY_BOX`.
        mask: (h, w) bool, of the box's size; contiguous along columns.
        stability: IoU of the mask at the raised and the lowered threshold, 0 to 1; 0 for an empty
            mask.
    """

    bbox: Box
    mask: NDArray[np.bool_]
    stability: float

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))


def paste_mask(
    low_res_mask: NDArray[np.float32],
    input_size: tuple[int, int],
    size: tuple[int, int],
    image_size: int,
    offset: float = STABILITY_OFFSET,
) -> PastedMask:
    """Upsample low-resolution mask logits to image resolution, cropped to the mask's bounding box.

    An upsampled logit lies between those of the cells around it, so only the reach of the cells
    above the lower threshold is computed. But for rounding, the logits equal those of
    `upscale_masks`.

    Args:
        low_res_mask: (4G, 4G) logits.
        input_size: (H, W) of the image in the encoder's frame.
        size: (H, W) of the image.
        image_size: side of the encoder's frame.
        offset: by which the threshold moves for the stability, as in SAM's
            `calculate_stability_score`.
    """
    rows, columns = axis_matrices(low_res_mask.shape[-1], image_size, input_size, size)
    cells = low_res_mask > MASK_THRESHOLD - offset
    top, bottom = _reach(rows, cells.any(1))
    left, right = _reach(columns, cells.any(0))
    logits = _upsample(low_res_mask, rows[top:bottom], columns[left:right])
    mask = logits > MASK_THRESHOLD
    bbox = bbox_from_mask(mask)
    if bbox == EMPTY_BOX:
        return PastedMask(EMPTY_BOX, np.zeros((0, 0), bool), 0.0)
    outer = np.count_nonzero(logits > MASK_THRESHOLD - offset)
    inner = np.count_nonzero(logits > MASK_THRESHOLD + offset)
    return PastedMask(
        bbox.translate(top, left), bbox.crop(mask).copy(order="K"), float(inner / outer)
    )


def _reach(matrix: NDArray[np.float32], cells: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the range of pixels along one axis that these cells contribute to."""
    pixels = np.flatnonzero(matrix[:, cells].any(1))
    return (int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else (0, 0)


def _upsample(
    low_res_mask: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interpolate logits at some pixels of an image, C-contiguous along columns.

    A pixel lies between a few cells, so the whole product would multiply by 0 nearly everywhere;
    those of blocks of pixels take a sixth of its time.

    Args:
        low_res_mask: (4G, 4G) logits.
        rows: (h, 4G), of `axis_matrices`.
        columns: (w, 4G), likewise.

    Returns:
        (h, w), the transposed view of a (w, h) array, the order in which COCO runs are counted.
    """
    between = np.empty((len(columns), len(low_res_mask)), np.float32)
    for pixels, cells in _blocks(columns):
        between[pixels] = columns[pixels, cells] @ low_res_mask.T[cells]
    logits = np.empty((len(columns), len(rows)), np.float32)
    for pixels, cells in _blocks(rows):
        np.matmul(between[:, cells], rows[pixels, cells].T, out=logits[:, pixels])
    return logits.T


def _blocks(matrix: NDArray[np.float32]) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of pixels, and the range of cells that contribute to them."""
    for start in range(0, len(matrix), BLOCK):
        pixels = slice(start, start + BLOCK)
        cells = np.flatnonzero(matrix[pixels].any(0))
        yield pixels, slice(int(cells[0]), int(cells[-1]) + 1)
