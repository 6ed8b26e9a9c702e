from __future__ import annotations

import numpy as np
import pytest

from cpcsam.contract import PointLabel
from training.prompts import (
    PromptMix,
    central_pixel,
    jittered_box,
    pixel_outside,
    pixel_wrong,
    sample_prompt,
)


def ring() -> np.ndarray:
    """An entity whose centroid is not one of its pixels."""
    y, x = np.mgrid[:40, :50]
    distance = np.hypot(y - 20, x - 25)
    return (distance < 12) & (distance > 5)


def at(mask: np.ndarray, point: tuple[float, float]) -> bool:
    return bool(mask[int(point[1]), int(point[0])])


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


@pytest.mark.parametrize(
    ("mix", "kinds"),
    [
        (PromptMix(box=1, several=0), {(2, 3, -1, -1)}),
        (PromptMix(box=0, several=0), {(1, -1, -1, -1)}),
    ],
)
def test_pure_mixes(mix: PromptMix, kinds: set[tuple[int, ...]]) -> None:
    for seed in range(10):
        coords, labels = sample_prompt(ring(), mix, np.random.default_rng(seed))
        assert tuple(labels) in kinds
        assert coords.shape == (4, 2) and coords.dtype == np.float32


def test_labels_tell_the_truth() -> None:
    mix = PromptMix(box=0, several=1, wrong=0)
    seen = set()
    for seed in range(200):
        coords, labels = sample_prompt(ring(), mix, np.random.default_rng(seed))
        for point, label in zip(coords, labels, strict=True):
            seen.add(int(label))
            if label in (PointLabel.FOREGROUND, PointLabel.BACKGROUND):
                assert at(ring(), tuple(point)) == (label == PointLabel.FOREGROUND)
    assert seen == {-1, 0, 1, 2, 3}


def test_wrong_share_is_respected() -> None:
    mix = PromptMix(box=0, several=0, wrong=0.5)
    missed = sum(
        not at(ring(), tuple(sample_prompt(ring(), mix, np.random.default_rng(seed))[0][0]))
        for seed in range(300)
    )
    assert 110 < missed < 190
