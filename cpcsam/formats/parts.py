"""Parts of a mask with their holes, as polygons along pixel edges that OGC calls valid.

`rings_of` lets a ring touch itself where background meets background at a corner. Such rings are
cut there, so that every ring is simple, and a hole that touched the outside becomes a hole that
touches the shell in one point.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cpcsam.polygons import rings_of

__all__ = ["Hole", "Part", "parts_of"]

Corners = list[tuple[int, int]]


@dataclass
class Hole:
    """A hole of a part.

    Attributes:
        ring: corners (X, Y), counterclockwise as the image is seen.
        pixel: (X, Y) of a pixel of the mask on the left of the hole's leftmost side.
        start: X of the first pixel of the run that ends with `pixel`.
        parent: index of the hole on the other side of that run; None for the part's shell.
    """

    ring: Corners
    pixel: tuple[int, int]
    start: int
    parent: int | None


@dataclass
class Part:
    """Pixels that are connected along sides.

    Attributes:
        shell: corners (X, Y), clockwise as the image is seen; no corner twice.
        holes: by their leftmost sides, from left to right.
    """

    shell: Corners
    holes: list[Hole] = field(default_factory=list)


def parts_of(mask: NDArray[np.bool_]) -> list[Part]:
    """Split a mask into parts, connected along the sides of pixels, with their holes.

    Args:
        mask: (h, w) bool.

    Returns:
        The parts in reading order of their first corners. By the even-odd rule their rings give the
        mask; parts and holes touch each other at corners alone.
    """
    rings = [simple for ring in rings_of(mask) for simple in _cut(ring)]
    shells = [index for index, ring in enumerate(rings) if _is_shell(ring)]
    parts = {index: Part(rings[index]) for index in shells}
    # A run's first pixel lies right of a side that leads up, of a shell or of another hole.
    ring_at = {
        (x, row): index
        for index, ring in enumerate(rings)
        for (x, bottom), (next_x, top) in zip(ring, (*ring[1:], ring[0]), strict=True)
        if x == next_x and top < bottom
        for row in range(top, bottom)
    }
    owner: dict[int, tuple[int, int | None]] = {index: (index, None) for index in shells}
    holes = [index for index in range(len(rings)) if index not in parts]
    for index in sorted(holes, key=lambda index: min(rings[index])):
        x, y = min(rings[index])
        row = mask[y, :x]
        start = x - int(np.argmin(row[::-1])) if not row.all() else 0
        neighbour = ring_at[start, y]
        shell = owner[neighbour][0]
        part = parts[shell]
        part.holes.append(Hole(rings[index], (x - 1, y), start, owner[neighbour][1]))
        owner[index] = (shell, len(part.holes) - 1)
    return list(parts.values())


def _cut(ring: Corners) -> list[Corners]:
    """Cut a ring where it visits a corner again, so that each result is simple."""
    if len(set(ring)) == len(ring):
        return [ring]
    simple: list[Corners] = []
    path: Corners = []
    place: dict[tuple[int, int], int] = {}
    for corner in ring:
        if corner in place:
            loop = path[place[corner] :]
            del path[place[corner] :]
            for gone in loop:
                place.pop(gone, None)
            simple.append(loop)
        place[corner] = len(path)
        path.append(corner)
    return [path, *simple]


def _is_shell(ring: Corners) -> bool:
    """Return whether a ring runs clockwise as the image is seen, with the mask inside."""
    twice = sum(
        x * next_y - next_x * y
        for (x, y), (next_x, next_y) in zip(ring, (*ring[1:], ring[0]), strict=True)
    )
    return twice > 0
