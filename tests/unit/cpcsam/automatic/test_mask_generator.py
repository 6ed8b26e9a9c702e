"""Everything that is there is found once, whole, in crops and in tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.mask_generator import EverythingSettings, views_of
from cpcsam.automatic.mask_merging import FoundMask
from cpcsam.automatic.predictor import segment_everything
from cpcsam.automatic.tiling import Tile
from cpcsam.errors import ConfigError
from tests.support.brightness_model import BrightnessModel
from tests.support.training_factory import discs
from training.data.sample import Sample
from training.evaluation.one_click import iou_score

LENIENT = EverythingSettings(points_per_side=12, min_iou=0.5, min_stability=0.5)


def assert_found_once(found: list[FoundMask], sample: Sample, least: float) -> None:
    """Each entity has one mask, and there is no other."""
    whole = Tile(0, 0, *sample.instances.shape)
    masks = [one.within(whole) for one in found]
    labels = range(1, int(sample.instances.max()) + 1)
    scores = np.array(
        [[iou_score(m, sample.instances == label) for m in masks] for label in labels]
    )
    assert len(found) == len(labels)
    assert scores.max(1).min() >= least
    assert sorted(scores.argmax(1)) == list(range(len(labels)))


@pytest.mark.parametrize("crop_layers", [0, 1])
def test_each_entity_is_found_once(crop_layers: int) -> None:
    sample = discs(9)
    wanted = EverythingSettings(
        points_per_side=12, min_iou=0.5, min_stability=0.5, crop_layers=crop_layers
    )
    found = segment_everything(sample.image, BrightnessModel(), wanted)
    assert_found_once(found, sample, 0.8)
    for one in found:
        assert one.area.size == one.mask.shape and 0.5 <= one.stability <= 1
        assert one.score == pytest.approx(0.9)


def test_what_tiles_cut_is_put_together() -> None:
    sample = discs(7)
    found = segment_everything(sample.image, BrightnessModel(), LENIENT, tile=64, overlap=0.5)
    assert_found_once(found, sample, 0.8)
    size = sample.instances.shape
    assert len(views_of(size, LENIENT, 64, 0.5)) > 4


def test_what_is_not_good_enough_is_dropped() -> None:
    image = discs(9).image
    for strict in (
        EverythingSettings(points_per_side=8, min_iou=0.95, min_stability=0.5),
        EverythingSettings(points_per_side=8, min_iou=0.5, min_stability=0.5, min_area=10**6),
    ):
        assert segment_everything(image, BrightnessModel(), strict) == []


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.integers(0, 3),
    st.floats(0, 0.95),
    st.integers(1, 9),
)
def test_crops_cover_the_image_and_clicks_lie_in_them(
    size: tuple[int, int], layers: int, overlap: float, points: int
) -> None:
    wanted = EverythingSettings(
        points_per_side=points, crop_layers=layers, crop_overlap=overlap, crop_points_divisor=2
    )
    views = views_of(size, wanted, 0, 0.5)
    assert views[0].part == Tile(0, 0, *size) and len(views[0].clicks) == points**2
    covered = np.zeros(size, int)
    for view in views:
        part = view.part
        assert 0 <= part.top < part.bottom <= size[0] and 0 <= part.left < part.right <= size[1]
        covered[part.top : part.bottom, part.left : part.right] += 1
        assert (view.clicks >= 0).all() and (view.clicks <= part.size[::-1]).all()
    assert covered.min() >= layers + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_per_side": 0},
        {"min_iou": 1.1},
        {"min_stability": float("nan")},
        {"stability_offset": 0.0},
        {"crop_layers": 9},
        {"crop_overlap": 1.0},
        {"crop_points_divisor": 0},
    ],
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EverythingSettings(**wrong)
