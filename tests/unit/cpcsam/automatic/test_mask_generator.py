"""Everything that is there is found once, whole, in crops and in tiles."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_generator import AutomaticMaskGenerator
from cpcsam.automatic.tiling import (
    build_point_grids,
    count_tiles,
    spread_tiles,
    tile_around,
    tile_boxes,
    tile_grid,
)
from cpcsam.errors import ConfigError
from cpcsam.geometry import Box
from tests.support.tiny_models import BrightnessModel
from tests.support.training_factory import discs
from training.data.sample import Sample
from training.evaluation.one_click import iou_score

LENIENT = MaskGeneratorConfig(points_per_side=12, pred_iou_thresh=0.5, stability_score_thresh=0.5)


def assert_found_once(found: list[InstanceMask], sample: Sample, least: float) -> None:
    """Each entity has one mask, and there is no other."""
    whole = Box(0, 0, *sample.instances.shape)
    masks = [one.in_region(whole) for one in found]
    labels = range(1, int(sample.instances.max()) + 1)
    scores = np.array(
        [[iou_score(m, sample.instances == label) for m in masks] for label in labels]
    )
    assert len(found) == len(labels)
    assert scores.max(1).min() >= least
    assert sorted(scores.argmax(1)) == list(range(len(labels)))


@pytest.mark.parametrize("crop_n_layers", [0, 1])
def test_generate_finds_each_entity_once(crop_n_layers: int) -> None:
    sample = discs(9)
    wanted = MaskGeneratorConfig(
        points_per_side=12,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.5,
        crop_n_layers=crop_n_layers,
    )
    found = AutomaticMaskGenerator(BrightnessModel(), wanted).generate(sample.image)
    assert_found_once(found, sample, 0.8)
    for one in found:
        assert one.bbox.size == one.mask.shape and 0.5 <= one.stability <= 1
        assert one.score == pytest.approx(0.9)


def test_generate_with_tiles_merges_cut_entities() -> None:
    sample = discs(7)
    found = AutomaticMaskGenerator(BrightnessModel(), LENIENT).generate(
        sample.image, tile=64, overlap=0.5
    )
    assert_found_once(found, sample, 0.8)
    size = sample.instances.shape
    assert len(build_point_grids(size, LENIENT, 64, 0.5)) > 4


def test_generate_strict_thresholds_drop_all_masks() -> None:
    image = discs(9).image
    for strict in (
        MaskGeneratorConfig(points_per_side=8, pred_iou_thresh=0.95, stability_score_thresh=0.5),
        MaskGeneratorConfig(
            points_per_side=8,
            pred_iou_thresh=0.5,
            stability_score_thresh=0.5,
            min_mask_region_area=10**6,
        ),
    ):
        assert AutomaticMaskGenerator(BrightnessModel(), strict).generate(image) == []


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.integers(0, 3),
    st.floats(0, 0.95),
    st.integers(1, 9),
)
def test_point_grids_crops_cover_the_image_and_contain_their_points(
    size: tuple[int, int], layers: int, overlap: float, points: int
) -> None:
    wanted = MaskGeneratorConfig(
        points_per_side=points,
        crop_n_layers=layers,
        crop_overlap_ratio=overlap,
        crop_n_points_downscale_factor=2,
    )
    grids = build_point_grids(size, wanted, 0, 0.5)
    assert grids[0].region == Box(0, 0, *size) and len(grids[0].points) == points**2
    covered = np.zeros(size, int)
    for grid in grids:
        region = grid.region
        assert (
            0 <= region.top < region.bottom <= size[0]
            and 0 <= region.left < region.right <= size[1]
        )
        covered[region.slices] += 1
        assert (grid.points >= 0).all() and (grid.points <= region.size[::-1]).all()
    assert covered.min() >= layers + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_per_side": 0},
        {"pred_iou_thresh": 1.1},
        {"stability_score_thresh": float("nan")},
        {"stability_score_offset": 0.0},
        {"crop_n_layers": 9},
        {"crop_overlap_ratio": 1.0},
        {"crop_n_points_downscale_factor": 0},
    ],
)
def test_config_out_of_range_raises_config_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MaskGeneratorConfig(**wrong)


@given(
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.integers(1, 60).flatmap(lambda side: st.tuples(st.just(side), st.integers(0, side - 1))),
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


@given(
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.integers(0, 60),
    st.floats(0, 0.99),
    st.integers(1, 20),
)
@settings(max_examples=150, deadline=None)
def test_tile_boxes_are_as_many_as_counted_and_those_chosen_spread_along_both_axes(
    size: tuple[int, int], side: int, overlap: float, most: int
) -> None:
    tiles = tile_boxes(size, side, overlap)
    assert count_tiles(size, side, overlap) == len(tiles) == len(set(tiles))
    chosen = spread_tiles(size, side, overlap, most)
    assert set(chosen) <= set(tiles) and len(set(chosen)) == len(chosen)
    assert min(len(tiles), most) / 2 <= len(chosen) <= most
    for axis in ("top", "left"):
        places = sorted({getattr(tile, axis) for tile in tiles})
        gaps = np.diff(
            [places.index(place) for place in sorted({getattr(tile, axis) for tile in chosen})]
        )
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_click_on_a_border_is_answered_where_it_is_shown(overlap: float) -> None:
    for x in (0, 255, 256, 511, 512, 767, 768, 1023):
        tile = tile_around((1024, 1024), 256, overlap, (x, 256, x, 256))
        assert tile.left <= x < tile.right and tile.top <= 256 < tile.bottom


def test_tiles_of_a_line_of_pixels_are_not_laid_out() -> None:
    line, end = (1, 2**26), (2.0**26 - 1, 0.0, 2.0**26, 1.0)
    tracemalloc.start()
    try:
        assert count_tiles(line, 1, 0.0) == 2**26
        assert [box.left for box in spread_tiles(line, 1, 0.0, 2)] == [2**24, 3 * 2**24]
        assert tile_around(line, 1, 0.0, end) == Box(0, 2**26 - 1, 1, 2**26)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


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
