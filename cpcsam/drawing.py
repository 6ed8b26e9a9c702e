"""Drawing of masks: contours, and colours that stay apart."""

from __future__ import annotations

import colorsys
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["RGB", "color_of", "contour"]

RGB: TypeAlias = tuple[int, int, int]
GOLDEN_ANGLE: Final = 0.618034
"""Fraction of the colour circle between neighbours; steps of it rarely come close to each other."""


def color_of(index: int) -> RGB:
    """Return a bright colour for a prompt index, distinct from those of neighbouring indices."""
    red, green, blue = colorsys.hsv_to_rgb((0.08 + index * GOLDEN_ANGLE) % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def contour(mask: NDArray[np.bool_], width: int = 1) -> NDArray[np.bool_]:
    """Return the inner contour of a mask: the mask minus its erosion by a cross.

    Args:
        mask: (H, W) bool; the outside of the image is background.
        width: of the contour, in pixels (city-block distance).

    Returns:
        (H, W) bool, a subset of the mask.
    """
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
