"""Clicks, boxes and coarse masks of one entity."""

from __future__ import annotations

import numpy as np
import pytest

from cpcsam.contract import PointLabel
from cpcsam.errors import ConfigError
from cpcsam.mask_prompts import MASK_LOGIT
from tests.support.prompt_shapes import CARELESS, at, disc, distance_to, ring, tight
from training.data.prompt_sampling import (
    PromptMix,
    central_pixel,
    coarse_mask,
    jittered_box,
    pixel_at_edge,
    pixel_outside,
    pixel_wrong,
    sample_prompt,
)


def test_central_pixel_belongs_to_the_entity() -> None:
    assert at(ring(), central_pixel(ring()))
    square = np.zeros((10, 10), bool)
    square[2:7, 3:8] = True
    assert central_pixel(square) == (5.0, 4.0)


def test_outside_and_wrong_clicks_miss_the_entity() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        assert not at(ring(), pixel_outside(ring(), rng))
        x, y = pixel_wrong(ring(), rng)
        assert not at(ring(), (x, y))
        rows, columns = np.nonzero(ring())
        assert np.hypot(rows - y, columns - x).min() <= 5


def test_box_without_jitter_is_tight() -> None:
    assert jittered_box(ring(), 0.0, np.random.default_rng(0)) == (14.0, 9.0, 37.0, 32.0)


def test_jittered_boxes_are_ordered_and_inside_the_image() -> None:
    for seed in range(50):
        x0, y0, x1, y1 = jittered_box(ring(), 0.8, np.random.default_rng(seed))
        assert 0 <= x0 < x1 <= 51 and 0 <= y0 < y1 <= 41


def test_edge_clicks_are_inside_and_next_to_the_border() -> None:
    mask = disc()
    for seed in range(50):
        point = pixel_at_edge(mask, np.random.default_rng(seed))
        assert at(mask, point)
        assert distance_to(~mask, point) <= 2


def test_an_entity_that_is_all_border_can_be_clicked_at_its_edge() -> None:
    thin = np.zeros((20, 20), bool)
    thin[4, 3:17] = True
    full = np.ones((20, 20), bool)
    for mask in (thin, full):
        assert at(mask, pixel_at_edge(mask, np.random.default_rng(0)))


@pytest.mark.parametrize("reach", [1, 3, 10])
def test_wrong_clicks_miss_by_at_most_their_reach(reach: int) -> None:
    mask = disc()
    misses = []
    for seed in range(200):
        point = pixel_wrong(mask, np.random.default_rng(seed), reach)
        assert not at(mask, point)
        misses.append(distance_to(mask, point))
    assert max(misses) <= reach
    assert max(misses) > reach - 1, "the reach is used"


def test_wrong_clicks_without_reach_or_room_stay_inside() -> None:
    full = np.ones((20, 20), bool)
    assert at(disc(), pixel_wrong(disc(), np.random.default_rng(0), 0))
    assert at(full, pixel_wrong(full, np.random.default_rng(0), 3))


def test_further_positive_clicks_may_be_wrong_too_and_negative_ones_never_are() -> None:
    mask = disc()
    mix = PromptMix(box=0, several=1, wrong=0.5, wrong_reach=5)
    missed, positive = 0, 0
    for seed in range(300):
        coords, labels = sample_prompt(mask, mix, np.random.default_rng(seed))
        for point, label in zip(coords[1:], labels[1:], strict=True):
            if label == PointLabel.FOREGROUND:
                positive += 1
                missed += not at(mask, tuple(point))
                assert distance_to(mask, tuple(point)) <= 5
            if label == PointLabel.BACKGROUND:
                assert not at(mask, tuple(point))
    assert 0.35 < missed / positive < 0.65


def test_loose_boxes_contain_the_entity_and_grow_by_at_most_their_share() -> None:
    mask = disc()
    around = tight(mask)
    sides = np.tile(around[2:] - around[:2], 2)
    growth = []
    for seed in range(100):
        box = np.array(jittered_box(mask, 0.0, np.random.default_rng(seed), loose=0.4))
        out = (box - around) * [-1, -1, 1, 1] / sides
        assert out.min() >= 0
        growth.append(float((box[2] - box[0]) / sides[0] - 1))
        assert np.allclose(out, growth[-1] / 2), "all sides alike"
    assert max(growth) <= 0.4 and max(growth) > 0.3 and min(growth) < 0.1


def test_shifted_boxes_keep_their_size_unless_the_image_ends() -> None:
    mask = disc()
    around = tight(mask)
    sides = around[2:] - around[:2]
    places = []
    for seed in range(200):
        box = np.array(jittered_box(mask, 0.0, np.random.default_rng(seed), shift=0.25))
        assert (box[2:] - box[:2] <= sides + 1e-9).all()
        inside = (box[:2] > 0) & (box[2:] < 256)
        assert np.allclose((box[2:] - box[:2])[inside], sides[inside])
        places += [*((box[:2] - around[:2]) / sides)[inside]]
    assert 0.2 < np.std(places) < 0.3
    outside = [
        jittered_box(mask, 0.0, np.random.default_rng(seed), shift=5.0) for seed in range(50)
    ]
    for x0, y0, x1, y1 in outside:
        assert 0 <= x0 < x1 <= 257 and 0 <= y0 < y1 <= 257


def test_coarse_masks_are_blocks_that_overlap_the_entity() -> None:
    mask = disc()
    for seed in range(20):
        logits = coarse_mask(mask, CARELESS, 64, np.random.default_rng(seed))
        assert logits.shape == (1, 64, 64) and logits.dtype == np.float32
        assert set(np.unique(logits)) == {-MASK_LOGIT, MASK_LOGIT}
        blocks = logits.reshape(16, 4, 16, 4).transpose(0, 2, 1, 3).reshape(16, 16, 16)
        assert (blocks == blocks[:, :, :1]).all()
        drawn = np.kron(logits[0] > 0, np.ones((4, 4), bool))
        assert (drawn & mask).any()
        cells = mask.reshape(16, 16, 16, 16).any((1, 3))
        assert not (blocks[:, :, 0] > 0)[~cells].any(), "nothing is drawn away from the entity"
        overlap = 2 * (drawn & mask).sum() / (drawn.sum() + mask.sum())
        assert overlap > 0.7


def test_coarse_mask_without_noise_fills_cells_covered_by_half() -> None:
    mask = disc()
    logits = coarse_mask(mask, PromptMix(mask_noise=0.0), 64, np.random.default_rng(0))
    covered = mask.reshape(16, 16, 16, 16).mean((1, 3))
    assert np.array_equal(logits[0, ::4, ::4] > 0, covered >= 0.5)


def test_an_entity_smaller_than_a_cell_is_drawn_all_the_same() -> None:
    small = np.zeros((256, 256), bool)
    small[100:103, 50:52] = True
    logits = coarse_mask(small, CARELESS, 64, np.random.default_rng(0))
    assert (logits > 0).sum() == 16, "one cell of 4 by 4"
    assert logits[0, 25, 12] > 0


@pytest.mark.parametrize("cells", [24, 128])
def test_cells_that_do_not_fill_the_grid_are_refused(cells: int) -> None:
    with pytest.raises(ConfigError, match=f"^mask_cells: got {cells}, expected a divisor of 64"):
        coarse_mask(disc(), PromptMix(mask_cells=cells), 64, np.random.default_rng(0))
