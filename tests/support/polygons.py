"""Filling of polygons, written independently of what makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["filled"]


def filled(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Fill polygons (N, 2) (X, Y), each by the even-odd rule, at the centres of pixels.

    Args:
        polygons: in pixels; the image's corner is (0, 0), so the first centre is (0.5, 0.5).
        size: (H, W) of the mask.
    """
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    mask = np.zeros(size, bool)
    for polygon in polygons:
        inside = np.zeros(size, bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y0 != y1:
                crossed = (y0 > y) != (y1 > y)
                inside ^= crossed & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        mask |= inside
    return mask
