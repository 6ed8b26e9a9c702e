"""Polygons of masks: exact at the lossless tolerance, close at a coarser one, open at holes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from matplotlib.path import Path

from cpcsam.outlines import polygons_of
from cpcsam.polygons import rings_of
from tests.support.polygons import filled
from training.evaluation.one_click import iou_score

MASKS = npst.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def discs() -> np.ndarray:
    y, x = np.mgrid[:200, :240]
    ring = (np.hypot(x - 100, y - 90) < 80) & (np.hypot(x - 90, y - 100) > 30)
    return ring | (np.hypot(x - 90, y - 100) < 12) | (np.hypot(x - 215, y - 180) < 15)


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_polygons_of_any_mask_hold_the_same_pixel_centres(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(filled(polygons_of(rings_of(mask)), mask.shape), mask)


@pytest.mark.parametrize("epsilon_factor, least, most", [(0.001, 0.99, 0.4), (0.005, 0.96, 0.15)])
def test_polygons_with_a_tolerance_stay_close_with_few_vertices(
    epsilon_factor: float, least: float, most: float
) -> None:
    mask = discs()
    polygons = polygons_of(rings_of(mask), epsilon_factor)
    assert len(polygons) == 3
    assert iou_score(filled(polygons, mask.shape), mask) >= least
    assert sum(map(len, polygons)) < most * sum(map(len, rings_of(mask)))


def test_polygon_of_a_mask_with_a_hole_is_open_by_the_non_zero_rule_too() -> None:
    mask = discs()
    centres = np.stack(np.nonzero(np.ones_like(mask))[::-1], axis=1) + 0.5
    by_winding = [
        Path(polygon).contains_points(centres).reshape(mask.shape)
        for polygon in polygons_of(rings_of(mask))
    ]
    assert iou_score(np.logical_or.reduce(by_winding), mask) >= 0.999
