"""Upsampling of low-resolution mask logits to an image, cropped to the mask. Plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import bbox_from_mask
from cpcsam.contract import MASK_THRESHOLD, STABILITY_OFFSET
from cpcsam.geometry import EMPTY_BOX, Box
from cpcsam.transforms import axis_matrices

__all__ = ["PastedMask", "paste_mask"]


@dataclass(frozen=True)
class PastedMask:
    """A mask in an image, a tile or a crop.

    Attributes:
        bbox: smallest box around it, or `EMPTY_BOX`.
        mask: (h, w) bool, of the box's size.
        stability: IoU of the mask at the raised and the lowered threshold, 0 to 1; 0 for an empty
            mask.
    """

    bbox: Box
    mask: NDArray[np.bool_]
    stability: float

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())


def paste_mask(
    low_res_mask: NDArray[np.float32],
    input_size: tuple[int, int],
    size: tuple[int, int],
    image_size: int,
    offset: float = STABILITY_OFFSET,
) -> PastedMask:
    """Upsample low-resolution mask logits to image resolution, cropped to the mask's bounding box.

    An upsampled logit lies between those of the cells around it, so only the reach of the cells
    above the lower threshold is computed. The logits equal those of `upscale_masks`.

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
    logits = (columns[left:right] @ low_res_mask.T @ rows[top:bottom].T).T
    mask = logits > MASK_THRESHOLD
    bbox = bbox_from_mask(mask)
    if bbox == EMPTY_BOX:
        return PastedMask(EMPTY_BOX, np.zeros((0, 0), bool), 0.0)
    outer = int((logits > MASK_THRESHOLD - offset).sum())
    inner = int((logits > MASK_THRESHOLD + offset).sum())
    crop = np.ascontiguousarray(bbox.crop(mask))
    return PastedMask(bbox.translate(top, left), crop, inner / outer)


def _reach(matrix: NDArray[np.float32], cells: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the range of pixels along one axis that these cells contribute to."""
    pixels = np.flatnonzero(matrix[:, cells].any(1))
    return (int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else (0, 0)
