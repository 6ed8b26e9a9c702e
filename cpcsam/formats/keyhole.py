"""Masks as a single polygon each, the only form that YOLO has.

Corners are the pixels of the mask along its boundary, as OpenCV's contours are. A hole is joined
to the outside by a line of the mask's own pixels (a keyhole), and parts are joined by the shortest
line between them, as Ultralytics' converter joins the parts of COCO's polygons. OpenCV's fillPoly
gives the mask again, holes included; of masks of several parts it adds the pixels of the lines.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.formats.parts import Corners, Part, parts_of

__all__ = ["keyhole_polygon"]

Pixels = NDArray[np.int64]
MOST_COMPARED: Final = 500
"""Pixels of a boundary that are compared to find the shortest line to another part."""


def keyhole_polygon(mask: NDArray[np.bool_]) -> Pixels:
    """Return a polygon that OpenCV's fillPoly turns into the mask.

    Args:
        mask: (h, w) bool with at least one pixel.

    Returns:
        (N, 2) pixels (X, Y), at least three, the corners of a closed polygon.
    """
    parts = sorted(
        (_chain_of_part(part, mask) for part in parts_of(mask)), key=lambda chain: chain[0, 0]
    )
    joined = parts[0]
    for part in parts[1:]:
        joined = _join(joined, part)
    kept = _corners(joined)
    return np.concatenate([kept, np.repeat(kept[-1:], max(3 - len(kept), 0), axis=0)])


def _chain_of_part(part: Part, mask: NDArray[np.bool_]) -> Pixels:
    """Return the boundary pixels of a part, with a keyhole to each hole."""
    # A hole's parent comes before it, so each is complete when it is inserted.
    inserted: dict[int | None, list[tuple[tuple[int, int], Pixels]]] = {}
    for index in range(len(part.holes) - 1, -1, -1):
        hole = part.holes[index]
        chain = _insert(_boundary(hole.ring, mask), inserted.get(index, []))
        at = int(np.flatnonzero((chain == hole.pixel).all(1))[0])
        around = np.concatenate([chain[at:], chain[: at + 1]])
        inserted.setdefault(hole.parent, []).append(((hole.start, hole.pixel[1]), around))
    return _insert(_boundary(part.shell, mask), inserted.get(None, []))


def _insert(chain: Pixels, others: list[tuple[tuple[int, int], Pixels]]) -> Pixels:
    """Insert closed chains behind pixels of a chain, with the way back."""
    if not others:
        return chain
    pieces, done = [], 0
    places = [int(np.flatnonzero((chain == pixel).all(1))[0]) for pixel, _ in others]
    for place, (_, other) in sorted(zip(places, others, strict=True), key=lambda pair: pair[0]):
        pieces += [chain[done : place + 1], other, chain[place : place + 1]]
        done = place + 1
    return np.concatenate([*pieces, chain[done:]])


def _boundary(ring: Corners, mask: NDArray[np.bool_]) -> Pixels:
    """Return the mask's pixels along a ring; diagonal where background meets at a corner alone.

    Ultralytics adds points along edges and cuts them to whole pixels, which on a diagonal can be
    pixels beside it.
    """
    corners = np.array(ring, np.int64)
    steps = np.roll(corners, -1, axis=0) - corners
    lengths = np.abs(steps).sum(axis=1)
    edge = np.repeat(np.arange(len(corners)), lengths)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    direction = np.sign(steps)[edge]
    start = corners[edge] + direction * place[:, None]
    # The mask lies on the right hand of the ring.
    right, left = direction[:, 0] > 0, direction[:, 0] < 0
    down, up = direction[:, 1] > 0, direction[:, 1] < 0
    x = start[:, 0] - (left | down)
    y = start[:, 1] - (left | up)
    assert (right | left | down | up).all()
    pixels = np.stack([x, y], axis=1)
    # Where the ring turns left, the way goes round the corner, through the mask.
    turns = np.flatnonzero((pixels != np.roll(pixels, -1, axis=0)).all(1))
    ahead = (pixels + direction)[turns]
    inside = mask[ahead[:, 1], ahead[:, 0]]
    return np.insert(pixels, turns[inside] + 1, ahead[inside], axis=0)


def _join(first: Pixels, second: Pixels) -> Pixels:
    """Join two closed chains by the shortest line between their pixels, there and back."""
    few, others = (chain[:: -(-len(chain) // MOST_COMPARED)] for chain in (first, second))
    apart = ((few[:, None] - others[None]) ** 2).sum(axis=2)
    near, far = np.unravel_index(int(apart.argmin()), apart.shape)
    at = int(near) * -(-len(first) // MOST_COMPARED)
    begin = int(far) * -(-len(second) // MOST_COMPARED)
    return np.concatenate([first[: at + 1], second[begin:], second[: begin + 1], first[at:]])


def _corners(chain: Pixels) -> Pixels:
    """Leave out repeated pixels and those on a straight way."""
    chain = np.concatenate([chain[:1], chain[1:][(chain[1:] != chain[:-1]).any(1)]])
    if len(chain) > 1 and (chain[0] == chain[-1]).all():
        chain = chain[:-1]
    before = chain - np.roll(chain, 1, axis=0)
    after = np.roll(chain, -1, axis=0) - chain
    is_straight = (before == after).all(1) & (np.abs(before).max(1) == 1)
    return chain if is_straight.all() else chain[~is_straight]
