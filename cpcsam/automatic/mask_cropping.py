"""A mask's logits brought to the image, only as far as the mask reaches. Plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.tiling import Tile
from cpcsam.contract import MASK_THRESHOLD, STABILITY_OFFSET
from cpcsam.transforms import axis_matrices

__all__ = ["NOWHERE", "PlacedMask", "place_mask"]

NOWHERE = Tile(0, 0, 0, 0)
"""The area of an empty mask."""


@dataclass(frozen=True)
class PlacedMask:
    """A mask in an image, or in a tile of one.

    Attributes:
        area: where `mask` lies: the smallest box around it, or NOWHERE.
        mask: (h, w) bool, of the area's size.
        stability: how little it changes with its threshold, 0 to 1; 0 without any pixel.
    """

    area: Tile
    mask: NDArray[np.bool_]
    stability: float


def place_mask(
    low_res_mask: NDArray[np.float32],
    input_size: tuple[int, int],
    size: tuple[int, int],
    image_size: int,
    offset: float = STABILITY_OFFSET,
) -> PlacedMask:
    """Upscale the logits of one mask as `upscale_masks` does, and cut the mask out.

    An upscaled logit lies between those of the cells around it, so beside the cells above the
    lower threshold nothing has to be computed.

    Args:
        low_res_mask: (4G, 4G) logits.
        input_size: (H, W) of the image in the encoder's frame.
        size: (H, W) of the image.
        image_size: side of the encoder's frame.
        offset: by which the threshold moves for the stability, as SAM's
            `calculate_stability_score` does.
    """
    rows, columns = axis_matrices(low_res_mask.shape[-1], image_size, input_size, size)
    cells = low_res_mask > MASK_THRESHOLD - offset
    top, bottom = _reach(rows, cells.any(1))
    left, right = _reach(columns, cells.any(0))
    logits = (columns[left:right] @ low_res_mask.T @ rows[top:bottom].T).T
    outer = int((logits > MASK_THRESHOLD - offset).sum())
    inner = int((logits > MASK_THRESHOLD + offset).sum())
    mask = logits > MASK_THRESHOLD
    if not mask.any():
        return PlacedMask(NOWHERE, np.zeros((0, 0), bool), 0.0)
    lines, places = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    first, last = int(lines[0]), int(lines[-1]) + 1
    near, far = int(places[0]), int(places[-1]) + 1
    return PlacedMask(
        Tile(top + first, left + near, top + last, left + far),
        np.ascontiguousarray(mask[first:last, near:far]),
        inner / outer,
    )


def _reach(matrix: NDArray[np.float32], cells: NDArray[np.bool_]) -> tuple[int, int]:
    """From where to where along one axis pixels take anything from these cells."""
    pixels = np.flatnonzero(matrix[:, cells].any(1))
    return (int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else (0, 0)
