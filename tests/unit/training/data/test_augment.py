from __future__ import annotations

import numpy as np
import pytest

from cpcsam.scale import Scale
from cpcsam.transforms import to_frame
from training.data.augment import PADDING, AugmentConfig, random_window, whole_window
from training.data.sample import Sample
from training.data.synthetic import synthetic_scene

SIZE = 64
SCALE = Scale(77, 1.29)


def bright_square() -> Sample:
    """A white square, labelled 5, on black."""
    instances = np.zeros((100, 120), np.int32)
    instances[40:70, 50:90] = 5
    image = np.repeat((instances[:, :, None] > 0).astype(np.uint8) * 255, 3, axis=2)
    return Sample("square", image, instances)


def test_labels_stay_on_their_pixels() -> None:
    config = AugmentConfig(colour=0, invert=0, grey=0)
    for seed in range(20):
        window = random_window(bright_square(), SIZE, SCALE, config, np.random.default_rng(seed))
        assert window.image.shape == (3, SIZE, SIZE)
        shown = window.image[0].numpy() > 127
        labelled = window.instances.numpy() == 5
        assert (shown != labelled).mean() < 0.03
        assert set(np.unique(window.instances)) <= {0, 5}


def test_equal_seeds_give_equal_windows() -> None:
    config = AugmentConfig()
    first, again = (
        random_window(bright_square(), SIZE, SCALE, config, np.random.default_rng(1))
        for _ in range(2)
    )
    other = random_window(bright_square(), SIZE, SCALE, config, np.random.default_rng(2))
    assert first.image.equal(again.image)
    assert not first.image.equal(other.image)


def test_whole_window_shows_the_sample_unchanged() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    instances = rng.integers(0, 9, (SIZE, SIZE)).astype(np.int32)
    same = whole_window(Sample("s", image, instances), SIZE)
    assert np.array_equal(same.image.permute(1, 2, 0).numpy(), image)
    assert np.array_equal(same.instances.numpy(), instances)
    doubled = whole_window(Sample("s", image, instances), 2 * SIZE)
    assert doubled.scale == 2
    assert np.array_equal(doubled.instances.numpy()[::2, ::2], instances)


@pytest.mark.parametrize("shape", [(4 * SIZE, 4 * SIZE), (3 * SIZE, 2 * SIZE)])
def test_whole_window_reduces_an_image_as_serving_does(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    shown = whole_window(Sample("noise", image, np.zeros(shape, np.int32)), SIZE).image.numpy()
    served, (height, width) = to_frame(image, SIZE)
    assert (shown[:, :height, :width] == served[:, :height, :width]).all()
    assert (shown[:, :, width:] == np.array(PADDING)[:, None, None]).all()
    assert served.std() > 10


def test_random_windows_reduce_what_they_show_smaller() -> None:
    shape = (8 * SIZE, 8 * SIZE)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    config = AugmentConfig(rotate=False, colour=0, invert=0, grey=0)
    spread = [
        random_window(
            Sample("noise", image, np.zeros(shape, np.int32)),
            SIZE,
            Scale(side, 1.0),
            config,
            np.random.default_rng(3),
        )
        .image.float()
        .std()
        for side in (SIZE, 2 * SIZE, 6 * SIZE)
    ]
    assert spread[1] < 0.6 * spread[0] and spread[2] < 0.25 * spread[0]


def test_scene_is_decided_by_its_seed() -> None:
    first, again, other = synthetic_scene(3, 128), synthetic_scene(3, 128), synthetic_scene(4, 128)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances, again.instances)
    assert not np.array_equal(first.image, other.image)


def test_entities_differ_from_the_ground() -> None:
    """Most scenes hold several entities whose mean colour is not that of the ground around."""
    visible = 0
    for seed in range(12):
        scene = synthetic_scene(seed, 128)
        assert scene.image.shape == (128, 128, 3)
        assert scene.instances.max() >= 2
        ground = scene.image[scene.instances == 0].mean(0)
        entities = scene.image[scene.instances > 0].mean(0)
        visible += bool(np.abs(ground - entities).max() > 10)
    assert visible >= 9


def test_sides_of_windows_fill_the_spread() -> None:
    sides = [
        SIZE
        / random_window(
            bright_square(), SIZE, Scale(50, 1.5), AugmentConfig(), np.random.default_rng(seed)
        ).scale
        for seed in range(60)
    ]
    assert 50 / 1.5 <= min(sides) < 38 and 66 < max(sides) <= 75


def test_whole_images_are_shown_whole_and_padded_with_the_mean_colour() -> None:
    sample = bright_square()
    config = AugmentConfig(rotate=False, colour=0, invert=0, grey=0)
    for seed in range(8):
        window = random_window(sample, SIZE, Scale(None, 1.0), config, np.random.default_rng(seed))
        # Stretched by 8 % at random, so the square of 30 x 40 of 120 pixels is 16 x 21 or so.
        assert (window.instances > 0).sum() == pytest.approx(30 * 40 * (SIZE / 120) ** 2, rel=0.1)
        padding = (window.image.permute(1, 2, 0).numpy() == PADDING).all(-1)
        assert padding.mean() == pytest.approx(20 / 120, abs=0.12)


def test_whole_window_pads_on_the_right_and_bottom() -> None:
    sample = bright_square()
    window = whole_window(sample, 120)
    assert np.array_equal(window.image.permute(1, 2, 0).numpy()[:100], sample.image)
    assert (window.image.permute(1, 2, 0).numpy()[100:] == PADDING).all()
