"""Tiles of annotated images that classes are learned from."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.support_set import support_tiles
from cpcsam.automatic.tiling import tile_boxes
from cpcsam.geometry import Box

SIZE = (900, 1200)
SIDE, OVERLAP = 64, 0.5


def shows(tile: Box, instances: np.ndarray, label: int) -> bool:
    return bool((tile.crop(instances) == label).any())


def test_few_small_entities_of_a_large_image_are_shown_and_background_all_around() -> None:
    instances = np.zeros(SIZE, np.int32)
    corners = [(5, 5), (890, 3), (430, 1190), (200, 777)]
    for label, (y, x) in enumerate(corners, start=1):
        instances[y : y + 6, x : x + 6] = label
    tiles = support_tiles(instances, [1, 2, 3, 4], SIDE, OVERLAP)
    assert len(tiles) == len(set(tiles)) <= 12
    for label in (1, 2, 3, 4):
        assert any(shows(tile, instances, label) for tile in tiles)
    empty = [tile for tile in tiles if not tile.crop(instances).any()]
    assert len(empty) >= 4
    for axis, length in (("top", SIZE[0]), ("left", SIZE[1])):
        starts = [getattr(tile, axis) for tile in empty]
        assert min(starts) < length / 3 and max(starts) > length / 2


def test_one_mask_of_many_parts_is_shown_though_its_middle_is_empty() -> None:
    instances = np.zeros(SIZE, np.int32)
    for y, x in ((100, 100), (100, 1000), (800, 100), (800, 1000)):
        instances[y : y + 9, x : x + 9] = 1
    tiles = support_tiles(instances, [1], SIDE, OVERLAP)
    showing = {(tile.top // 450, tile.left // 600) for tile in tiles if shows(tile, instances, 1)}
    assert len(showing) >= 2


def test_entities_that_others_hide_or_that_are_not_wanted_take_no_tile() -> None:
    instances = np.zeros(SIZE, np.int32)
    instances[10:20, 10:20], instances[700:710, 900:910] = 2, 3
    (only,) = (
        tile
        for tile in support_tiles(instances, [1, 3], SIDE, OVERLAP)
        if tile.crop(instances).any()
    )
    assert shows(only, instances, 3)


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(1, 14),
    st.integers(0, 9),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_tiles_are_all_or_at_most_as_many_as_wanted(
    size: tuple[int, int], side: int, overlap: float, most: int, entities: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = list(range(1, entities + 1))
    instances = rng.choice([0, *labels], size)
    tiles = support_tiles(instances, labels, side, overlap, most)
    all_tiles = tile_boxes(size, side, overlap)
    assert set(tiles) <= set(all_tiles) and len(set(tiles)) == len(tiles)
    if len(all_tiles) <= most:
        assert tiles == all_tiles
    else:
        assert max(1, most // 2) <= len(tiles) <= most
    if instances.any():
        assert any(tile.crop(instances).any() for tile in tiles)


def test_label_image_with_a_huge_grid_of_tiles_lays_out_few() -> None:
    instances = np.zeros((1, 60_000), np.int16)
    instances[0, 31_234] = 1
    tiles = support_tiles(instances, [1], 1, 0.5)
    assert Box(0, 31_234, 1, 31_235) in tiles and len(tiles) == 12
    assert np.diff(sorted(tile.left for tile in tiles)).max() < 6_000
