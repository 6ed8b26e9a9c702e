"""Validation on images that do not belong to the masks."""

from __future__ import annotations

import numpy as np

from tests.support.training_factory import discs
from training.bilevel.best_model import with_other_images


def test_windows_get_the_next_image_upside_down_and_keep_their_masks() -> None:
    windows = [discs(0, side=100), discs(1, side=160)]
    first, second = with_other_images(windows)
    assert first.image.shape == (100, 100, 3) and second.image.shape == (160, 160, 3)
    for other, window in zip((first, second), windows, strict=True):
        assert other.name == window.name
        assert np.array_equal(other.instances, window.instances)
    assert first.image.mean() > windows[1].image.mean() - 5


def test_a_single_window_is_turned() -> None:
    [window] = [discs()]
    [other] = with_other_images([window])
    assert np.array_equal(other.image, window.image[::-1, ::-1])
