"""Exact rasterisation of polygons along pixel edges."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cpcsam.client.masks import fill_rings


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)),
    st.booleans(),
)
def test_fill_rings_of_pixel_squares_fills_those_pixels(
    mask: NDArray[np.bool_], turned: bool
) -> None:
    squares = [
        ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)) for y, x in np.argwhere(mask).tolist()
    ]
    rings = [square[::-1] if turned else square for square in squares]
    assert (fill_rings(rings, mask.shape) == mask).all()


def test_fill_rings_applies_the_even_odd_rule() -> None:
    def square(low: int, high: int) -> tuple[tuple[float, float], ...]:
        return ((low, low), (high, low), (high, high), (low, high))

    filled = fill_rings([square(0, 9), square(2, 7), square(4, 5)], (9, 10))
    expected = np.zeros((9, 10), bool)
    expected[:9, :9] = True
    expected[2:7, 2:7] = False
    expected[4, 4] = True
    assert (filled == expected).all()
    assert not fill_rings([], (3, 4)).any()
