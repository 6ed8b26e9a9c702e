from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.tiling import tile_around, tile_boxes, tile_grid
from cpcsam.errors import ConfigError
from cpcsam.geometry import Box


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(1, 130).flatmap(lambda side: st.tuples(st.just(side), st.integers(0, side - 1))),
)
@settings(max_examples=150, deadline=None)
def test_tile_grid_covers_the_image_with_overlap(
    size: tuple[int, int], tiling: tuple[int, int]
) -> None:
    side, overlap = tiling
    if side - overlap < 5:
        overlap = max(0, side - 5)
    covered = np.zeros(size, int)
    tiles = tile_grid(size, side, overlap)
    for tile in tiles:
        assert tile.size == (min(side, size[0]), min(side, size[1]))
        covered[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert covered.shape == size and covered.min() >= 1
    for starts in ({tile.top for tile in tiles}, {tile.left for tile in tiles}):
        assert (np.diff(sorted(starts)) <= side - overlap).all()


@pytest.mark.parametrize(("side", "overlap"), [(0, 0), (8, 8), (8, -1)])
def test_tile_grid_without_step_raises_config_error(side: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="tile and overlap"):
        tile_grid((10, 10), side, overlap)


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(1, 130),
    st.floats(0, 0.9),
    st.tuples(*[st.floats(0, 1)] * 4),
)
@settings(max_examples=150, deadline=None)
def test_tile_around_holds_the_prompt_nearest_to_its_middle(
    size: tuple[int, int], side: int, overlap: float, places: tuple[float, ...]
) -> None:
    x0, x1 = sorted(place * size[1] for place in places[:2])
    y0, y1 = sorted(place * size[0] for place in places[2:])
    tile = tile_around(size, side, overlap, (x0, y0, x1, y1))
    assert tile.left <= x0 <= x1 <= tile.right and tile.top <= y0 <= y1 <= tile.bottom
    if tile == Box(0, 0, *size):
        return
    drawn = max(tile.size)
    assert drawn in (side * 2**power for power in range(10))
    others = tile_boxes(size, drawn, overlap)
    assert tile in others

    def distance(one: Box) -> float:
        return abs(one.left + one.right - x0 - x1)

    holding = [
        t for t in others if t.left <= x0 and x1 <= t.right and t.top <= y0 <= y1 <= t.bottom
    ]
    assert distance(tile) == min(map(distance, holding))
