"""The search for the scale at which a base segments best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from cpcsam.model.base_checkpoint import load_base
from tests.support.paths import ROOT
from tests.support.training_factory import discs
from training.data.sample import Sample
from training.evaluation.scale_search import WindowScore, best_window, score_windows


def test_the_largest_window_that_is_about_as_good_as_the_best_is_taken() -> None:
    scores = [WindowScore(None, 0.5), WindowScore(200, 0.785), WindowScore(100, 0.8)]
    assert best_window(scores) == 200
    assert best_window([*scores, WindowScore(60, 0.83)]) == 60
    assert best_window([WindowScore(None, 0.8), *scores]) is None


def far_off(sample: Sample) -> Sample:
    """The sample in the corner of a ground six times as large."""
    side = 6 * len(sample.instances)
    grown = np.full((side, side, 3), 50, np.uint8)
    labels = np.zeros((side, side), np.int32)
    size = len(sample.instances) // 4
    grown[:size, :size] = sample.image[::4, ::4]
    labels[:size, :size] = sample.instances[::4, ::4]
    return replace(sample, image=grown, instances=ndimage.grey_dilation(labels, 1))


def test_small_entities_are_shown_enlarged_and_large_ones_whole() -> None:
    base = load_base(ROOT / "weights/vit_t")
    whole, *cut = score_windows(base, [discs()])
    assert whole.window is None and whole.dice > 0.7
    assert best_window([whole, *cut]) in (None, 107)
    small = score_windows(base, [far_off(discs())])
    assert best_window(small) not in (None, 640, 427)


def test_what_a_window_cuts_off_counts_as_missed() -> None:
    base = load_base(ROOT / "weights/vit_t")
    sample = discs(side=160)
    disc = np.hypot(*(np.mgrid[:160, :160] - 80)) < 60
    image = np.where(disc[:, :, None], 180, 50).astype(np.uint8).repeat(3, 2)
    scores = score_windows(base, [replace(sample, image=image, instances=disc.astype(np.int32))])
    area = np.pi * 60**2
    for score in scores[1:]:
        assert score.window is not None
        # Even the whole window as a mask misses the rest of the disc.
        assert score.dice <= 2 * score.window**2 / (score.window**2 + area) + 1e-6


def test_without_entities_whole_images_are_taken() -> None:
    sample = discs()
    empty = replace(sample, instances=np.zeros_like(sample.instances))
    scores = score_windows(load_base(ROOT / "weights/vit_t"), [empty])
    assert best_window(scores) is None
    assert all(score.dice == pytest.approx(0) for score in scores)
    assert score_windows(load_base(ROOT / "weights/vit_t"), []) == [WindowScore(None, 0.0)]
