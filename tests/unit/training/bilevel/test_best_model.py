"""Validation on images that do not belong to the masks."""

from __future__ import annotations

import numpy as np

from tests.support.training_factory import discs
from training.bilevel.best_model import with_other_images
from training.data.sample import Sample


def test_windows_get_the_next_image_rolled_and_keep_their_masks() -> None:
    windows = [discs(0, side=100), discs(1, side=160)]
    first, second = with_other_images(windows)
    assert first.image.shape == (100, 100, 3) and second.image.shape == (160, 160, 3)
    for other, window in zip((first, second), windows, strict=True):
        assert other.name == window.name
        assert np.array_equal(other.instances, window.instances)
    assert first.image.mean() > windows[1].image.mean() - 5


def test_a_single_window_with_a_centred_entity_shows_it_elsewhere() -> None:
    y, x = np.mgrid[:161, :161]
    disc = (x - 80) ** 2 + (y - 80) ** 2 < 55**2
    image = np.where(disc, 200, 50).astype(np.uint8)[..., None].repeat(3, -1)
    [other] = with_other_images([Sample("dish", image, disc.astype(np.int32))])
    assert np.array_equal(other.instances > 0, disc)
    assert (other.image > 100).mean() == (image > 100).mean()
    assert (other.image[..., 0] > 100)[disc].mean() < 0.1


def test_a_window_of_wells_is_not_rolled_onto_itself() -> None:
    y, x = np.mgrid[:160, :160] % 80
    wells = (x - 40) ** 2 + (y - 40) ** 2 < 30**2
    image = np.where(wells, 200, 50).astype(np.uint8)[..., None].repeat(3, -1)
    [other] = with_other_images([Sample("wells", image, wells.astype(np.int32))])
    assert (other.image[..., 0] > 100)[wells].mean() < 0.7
