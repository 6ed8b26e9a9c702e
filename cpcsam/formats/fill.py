"""Rasterising of polygons: by pixel centres, and with their boundary as OpenCV's fillPoly does."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["fill_polygons", "fill_with_boundary"]


def fill_polygons(rings: Iterable[ArrayLike], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill rings by the even-odd rule: a pixel is in the mask if its centre is inside.

    Args:
        rings: (N, 2) each, (X, Y) in pixels from the image's corner; the ends are joined.
        size: (H, W).

    Returns:
        (H, W) bool. Rings along pixel edges give exactly the pixels that they enclose.
    """
    height, width = size
    crossed = np.zeros((height, width + 1), bool)
    for ring in rings:
        rows, columns = _crossings(np.asarray(ring, np.float64).reshape(-1, 2), size)
        np.logical_xor.at(crossed, (rows, columns), True)
    filled: NDArray[np.bool_] = np.logical_xor.accumulate(crossed, axis=1)[:, :width]
    return filled


def fill_with_boundary(points: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill a polygon whose corners are pixels, and draw its boundary, as OpenCV's fillPoly.

    It equals fillPoly where edges are horizontal, vertical or diagonal. Other edges may differ by
    pixels along them.

    Args:
        points: (N, 2) pixels (X, Y).
        size: (H, W).
    """
    filled = fill_polygons([points + 0.5], size)
    steps = np.roll(points, -1, axis=0) - points
    lengths = np.maximum(np.abs(steps).max(axis=1), 1)
    edge = np.repeat(np.arange(len(points)), lengths)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    drawn = points[edge] + np.rint(steps[edge] * (place / lengths[edge])[:, None]).astype(np.int64)
    inside = (drawn >= 0).all(1) & (drawn[:, 0] < size[1]) & (drawn[:, 1] < size[0])
    filled[drawn[inside, 1], drawn[inside, 0]] = True
    return filled


def _crossings(
    ring: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and the first columns whose centre lies right of where an edge crosses them."""
    height, width = size
    ends = np.roll(ring, -1, axis=0)
    down = (ring[:, 1] <= ends[:, 1])[:, None]
    upper, lower = np.where(down, ring, ends), np.where(down, ends, ring)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(ring)), counts)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    above, below = upper[edge], lower[edge]
    share = (rows + 0.5 - above[:, 1]) / (below[:, 1] - above[:, 1])
    x = above[:, 0] + share * (below[:, 0] - above[:, 0])
    return rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
