"""Polygons that annotators can edit, from the exact rings of a mask.

Rings run along the sides of pixels, so a slanted outline is a staircase. The middles of its sides,
the contour of marching squares, run slanted as well; Douglas-Peucker then leaves few vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LOSSLESS_TOLERANCE", "polygons_of", "signed_area", "simplify_ring"]

LOSSLESS_TOLERANCE: Final = 0.35
"""In pixels. Centres of pixels are at least sqrt(2) / 4 from a contour through midpoints, so
polygons that deviate less hold the same centres."""

Points = NDArray[np.float64]


def polygons_of(rings: Sequence[ArrayLike], epsilon_factor: float = 0.0) -> list[Points]:
    """Convert the rings of a mask to simple polygons, one per outer ring (keyhole polygons).

    A hole is joined to the ring around it by a cut of no width, so that filling a polygon leaves
    the hole open by the even-odd and by the non-zero rule.

    Args:
        rings: of a mask, as the API has them: corners (N, 2), (X, Y) in pixels, along the sides of
            pixels; outer rings run clockwise as the image is seen, holes the other way round.
        epsilon_factor: tolerance of Douglas-Peucker as a part of a ring's length, and at least
            LOSSLESS_TOLERANCE, with which the polygons hold exactly the mask's pixel centres.

    Returns:
        Polygons, each (N, 2) float64 (X, Y) in pixels; the image's top left corner is (0, 0).
    """
    corners = [np.asarray(ring, np.float64) for ring in rings]
    outer = [points for points in corners if signed_area(points) > 0]
    holes = [points for points in corners if signed_area(points) < 0]
    polygons = [_outline(points, epsilon_factor) for points in outer]
    areas = [signed_area(points) for points in outer]
    for hole in holes:
        # The middle of a first side lies on the hole's edge, never on that of another ring.
        place = (hole[0] + hole[1]) / 2
        around = [index for index, points in enumerate(outer) if _holds(points, place)]
        if around:
            smallest = min(around, key=areas.__getitem__)
            polygons[smallest] = _join(polygons[smallest], _outline(hole, epsilon_factor))
    return polygons


def _outline(corners: Points, epsilon_factor: float) -> Points:
    contour = _midpoints(corners)
    length = np.linalg.norm(contour - np.roll(contour, 1, axis=0), axis=1).sum()
    simple = simplify_ring(contour, max(LOSSLESS_TOLERANCE, epsilon_factor * length))
    return simple if len(simple) >= 3 else simplify_ring(contour, LOSSLESS_TOLERANCE)


def _midpoints(corners: Points) -> Points:
    """Return the middles of the first and the last pixel side of each straight piece of a ring."""
    ends = np.roll(corners, -1, axis=0)
    half = np.sign(ends - corners) / 2
    middles = np.stack([corners + half, ends - half], axis=1).reshape(-1, 2)
    distinct: Points = middles[(middles != np.roll(middles, 1, axis=0)).any(axis=1)]
    return distinct


def simplify_ring(closed: Points, tolerance: float) -> Points:
    """Simplify a closed line (Ramer-Douglas-Peucker), from its first point to the farthest.

    Args:
        closed: (N, 2), N >= 1; the last point is joined to the first.
        tolerance: greatest distance of a point that is left out from the line, in pixels.

    Returns:
        (M, 2), the points that stay.
    """
    count = len(closed)
    points = np.vstack([closed, closed[:1]])
    farthest = int(np.linalg.norm(closed - closed[0], axis=1).argmax())
    kept = np.zeros(count + 1, bool)
    kept[[0, farthest]] = True
    pieces = [(0, farthest), (farthest, count)]
    while pieces:
        start, end = pieces.pop()
        if end - start < 2:
            continue
        distances = _distances(points[start + 1 : end], points[start], points[end])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = start + 1 + worst
            kept[middle] = True
            pieces += [(start, middle), (middle, end)]
    simple: Points = closed[kept[:count]]
    return simple


def _distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """Return the distance of each point from the line between two others."""
    along = end - start
    squared = float(along @ along)
    shares = np.clip((points - start) @ along / squared, 0, 1) if squared else np.zeros(len(points))
    distances: NDArray[np.float64] = np.linalg.norm(
        points - start - shares[:, None] * along, axis=1
    )
    return distances


def _join(polygon: Points, hole: Points) -> Points:
    """Insert a hole into a polygon, from its leftmost vertex to the polygon's nearest and back.

    The polygon's first vertex stays unique: some tools take its return for the polygon's end.
    """
    first = int(hole[:, 0].argmin())
    nearest = 1 + int(np.linalg.norm(polygon[1:] - hole[first], axis=1).argmin())
    turned = np.roll(hole, -first, axis=0)
    return np.vstack([polygon[: nearest + 1], turned, turned[:1], polygon[nearest:]])


def signed_area(points: Points) -> float:
    """Return the area of a ring (N, 2), above 0 if it runs clockwise as the image is seen."""
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _holds(points: Points, place: Points) -> bool:
    """Tell whether a place is inside a ring, by crossings of a ray to the right."""
    ends = np.roll(points, -1, axis=0)
    crossing = (points[:, 1] > place[1]) != (ends[:, 1] > place[1])
    # Sides that the ray crosses are vertical, in a ring along pixels.
    return bool(np.count_nonzero(points[crossing, 0] > place[0]) % 2)
