"""Outlines are exact: filled again, they are the mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from serving.gateway.segmentation.polygons import rings_of

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=10))


def filled(rings: list[list[tuple[int, int]]], size: tuple[int, int]) -> np.ndarray:
    """A pixel is inside if an odd number of upright lines lies to its left."""
    crossings = np.zeros(size, int)
    for ring in rings:
        for (x, y), (next_x, next_y) in zip(ring, [*ring[1:], ring[0]], strict=True):
            assert (x == next_x) != (y == next_y)
            crossings[min(y, next_y) : max(y, next_y), x:] += 1
    return crossings % 2 == 1


def turned(ring: list[tuple[int, int]]) -> float:
    """Twice the signed area, above 0 where the ring runs clockwise as the image is seen."""
    x, y = np.array(ring, float).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


@settings(deadline=None, max_examples=200)
@given(masks)
def test_rings_filled_equal_the_mask(mask: np.ndarray) -> None:
    rings = rings_of(mask)
    assert np.array_equal(filled(rings, mask.shape), mask)
    outer = [ring for ring in rings if turned(ring) > 0]
    assert len(outer) == ndimage.label(mask)[1]


@settings(deadline=None, max_examples=100)
@given(masks)
def test_rings_contain_only_corners(mask: np.ndarray) -> None:
    for ring in rings_of(mask):
        assert len(ring) >= 4
        for before, here, after in zip(
            [ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True
        ):
            straight = (before[0] == here[0] == after[0]) or (before[1] == here[1] == after[1])
            assert not straight


@given(st.integers(1, 9), st.integers(1, 9))
def test_rings_of_a_rectangle_are_four_corners_clockwise(height: int, width: int) -> None:
    assert rings_of(np.ones((height, width), bool)) == [
        [(0, 0), (width, 0), (width, height), (0, height)]
    ]


def test_rings_of_holes_run_counterclockwise() -> None:
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    outer, hole = rings_of(mask)
    assert turned(outer) == 18 and turned(hole) == -2
    assert rings_of(~mask) == [[(1, 1), (2, 1), (2, 2), (1, 2)]]
    assert rings_of(np.zeros((2, 2), bool)) == []
