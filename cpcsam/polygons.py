"""Polygons: a mask's outline along the sides of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["rings_of"]

Point = tuple[int, int]
Direction = tuple[int, int]
Ring = list[tuple[int, int]]


def rings_of(mask: NDArray[np.bool_]) -> list[Ring]:
    """Trace the outlines of a mask's components and of its holes as closed rings.

    Args:
        mask: (h, w) bool.

    Returns:
        The corners (X, Y) of each ring, from its first in reading order. Outer rings run clockwise
        in the image, holes counterclockwise. Filled by the even-odd rule the rings give the mask.
    """
    ahead = _sides(mask)
    # A start that no earlier ring has consumed is a corner of its ring.
    return [_walk(ahead, start) for start in sorted(ahead) if ahead[start]]


def _sides(mask: NDArray[np.bool_]) -> dict[Point, list[Direction]]:
    """Return the directions of the pixel sides that leave each corner (row, column)."""
    around = np.pad(mask, 1).astype(np.int8)
    vertical, horizontal = np.diff(around, axis=1)[1:-1], np.diff(around, axis=0)[:, 1:-1]
    ahead: dict[Point, list[Direction]] = {}
    # The mask is on the right hand: below a side that leads right, above a side that leads left.
    for sides, direction, first in (
        (horizontal > 0, (0, 1), (0, 0)),
        (horizontal < 0, (0, -1), (0, 1)),
        (vertical < 0, (1, 0), (0, 0)),
        (vertical > 0, (-1, 0), (1, 0)),
    ):
        for row, column in (np.argwhere(sides) + first).tolist():
            ahead.setdefault((row, column), []).append(direction)
    return ahead


def _walk(ahead: dict[Point, list[Direction]], start: Point) -> Ring:
    """Follow sides back to the start, consuming them; return the corners (X, Y)."""
    place, (down, right) = start, (0, 0)
    ring = []
    while True:
        # Where two parts touch at a corner, turning right stays with the same part.
        turns = ((right, -down), (down, right), (-right, down))
        direction = next((turn for turn in turns if turn in ahead[place]), ahead[place][0])
        ahead[place].remove(direction)
        if direction != (down, right):
            ring.append((place[1], place[0]))
        down, right = direction
        place = place[0] + down, place[1] + right
        if place == start:
            return ring
