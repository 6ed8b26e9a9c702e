"""Outlines give every mask again: as valid polygons, and as a single polygon with keyholes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cpcsam.formats.brush_runs import decode_brush, encode_brush
from cpcsam.formats.cvat import decode_runs, encode_runs
from cpcsam.formats.fill import fill_polygons, fill_with_boundary
from cpcsam.formats.keyhole import keyhole_polygon
from cpcsam.formats.parts import parts_of
from tests.support.format_records import MASKS

Mask = NDArray[np.bool_]
masks = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(deadline=None, max_examples=200)
@given(masks)
def test_rings_of_parts_are_simple_and_give_the_mask(mask: Mask) -> None:
    parts = parts_of(mask)
    rings = [ring for part in parts for ring in (part.shell, *(hole.ring for hole in part.holes))]
    assert all(len(set(ring)) == len(ring) >= 4 for ring in rings)
    assert (fill_polygons(rings, mask.shape) == mask).all()
    for part in parts:
        # A part alone: its holes are inside of it, and nothing else is.
        alone = fill_polygons([part.shell, *(hole.ring for hole in part.holes)], mask.shape)
        assert not (alone & ~mask).any() and alone.any()
        whole = fill_polygons([part.shell], mask.shape)
        holes = fill_polygons([hole.ring for hole in part.holes], mask.shape)
        assert not (holes & ~whole).any()


@settings(deadline=None, max_examples=200)
@given(masks.filter(lambda mask: mask.any()))
def test_keyhole_polygon_fills_the_mask_and_at_most_lines_between_parts(mask: Mask) -> None:
    polygon = keyhole_polygon(mask)
    filled = fill_with_boundary(polygon, mask.shape)
    assert not (mask & ~filled).any()
    if len(parts_of(mask)) == 1:
        assert (filled == mask).all()


@settings(deadline=None, max_examples=100)
@given(masks)
def test_run_lengths_of_cvat_and_label_studio_are_inverted(mask: Mask) -> None:
    assert (decode_runs(encode_runs(mask), mask.shape) == mask).all()
    assert (decode_brush(encode_brush(mask), mask.shape) == mask).all()


def test_keyhole_polygon_of_a_disc_with_a_hole_has_no_diagonals() -> None:
    y, x = np.mgrid[-20:21, -20:21]
    mask = (np.hypot(x, y) < 18) & (np.hypot(x - 5, y) > 6)
    polygon = keyhole_polygon(mask)
    assert (np.roll(polygon, 1, axis=0) == polygon).any(1).all()
    assert (fill_with_boundary(polygon, mask.shape) == mask).all()


def test_hole_that_touches_the_outside_at_a_corner_is_a_hole_of_its_own() -> None:
    (part,) = parts_of(MASKS["notches"])
    assert len(part.holes) == 2
    assert len(set(part.shell)) == len(part.shell)


def test_brush_of_a_long_run_is_split_and_short() -> None:
    mask = np.zeros((600, 700), bool)
    mask[100:500] = True
    encoded = encode_brush(mask)
    assert len(encoded) < 200 and (decode_brush(encoded, mask.shape) == mask).all()


def test_brush_with_literal_values_is_decoded() -> None:
    # As the browser's packer writes it: one block of 8 values, not repeated.
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + "111"
    bits += "".join(f"{value:08b}" for value in (0, 0, 0, 0, 9, 9, 9, 255))
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert decode_brush(data, (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize("cut", [3, 7, -1])
def test_brush_that_ends_early_is_refused(cut: int) -> None:
    data = encode_brush(MASKS["holes"])
    with pytest.raises(ValueError, match=r"end early|values"):
        decode_brush(data[:cut], MASKS["holes"].shape)


def test_polygon_is_filled_by_pixel_centres() -> None:
    triangle = [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]
    expected = [[x + y + 1 < 4 for x in range(4)] for y in range(4)]
    assert fill_polygons([triangle], (4, 4)).tolist() == expected
    beyond = [(-3.0, -3.0), (9.0, -3.0), (9.0, 9.0), (-3.0, 9.0)]
    assert fill_polygons([beyond], (4, 4)).all()
