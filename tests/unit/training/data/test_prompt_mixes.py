"""What a mix of annotators draws: shares, strength and seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.contract import PointLabel
from cpcsam.errors import ConfigError
from tests.support.prompt_shapes import CARELESS, at, disc, distance_to, ring, tight
from training.data.prompt_sampling import PromptMix, central_pixel, coarse_mask, sample_prompt


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


def test_synthetic_scene_labels_match_its_entities() -> None:
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


@pytest.mark.parametrize(
    ("mix", "share"),
    [
        (PromptMix(box=0, several=0, centre=1.0), (1.0, 0.0, 0.0)),
        (PromptMix(box=0, several=0, centre=0.0, edge=1.0), (0.0, 1.0, 0.0)),
        (PromptMix(box=0, several=0, centre=0.5, edge=0.5, wrong=1.0), (0.0, 0.0, 1.0)),
        (PromptMix(box=0, several=0, centre=0.3, edge=0.5, wrong=0.2), (0.24, 0.4, 0.2)),
    ],
)
def test_first_clicks_follow_the_shares_of_the_mix(
    mix: PromptMix, share: tuple[float, float, float]
) -> None:
    mask, count = disc(), 400
    found = np.zeros(3)
    for seed in range(count):
        coords, _ = sample_prompt(mask, mix, np.random.default_rng(seed))
        point = tuple(coords[0])
        found[0] += point == central_pixel(mask)
        found[1] += at(mask, point) and distance_to(~mask, point) <= 2
        found[2] += not at(mask, point)
    # Of the clicks anywhere inside, some fall at the edge by chance: 2 of 40 pixels of radius.
    anywhere = 1 - sum(share)
    expected = np.array(share) + [0, 0.1 * anywhere, 0]
    assert np.abs(found / count - expected).max() < 0.08
    assert all(found[index] == 0 for index in range(3) if expected[index] == 0)


def test_strength_0_is_accurate() -> None:
    mask, mix = disc(), CARELESS.scaled(0)
    around = tight(mask)
    kinds = set()
    for seed in range(200):
        coords, labels = sample_prompt(mask, mix, np.random.default_rng(seed))
        kinds.update(labels)
        if labels[0] == PointLabel.BOX_TOP_LEFT:
            assert np.array_equal(coords[:2].ravel(), around)
        for point, label in zip(coords, labels, strict=True):
            if label in (PointLabel.FOREGROUND, PointLabel.BACKGROUND):
                assert at(mask, tuple(point)) == (label == PointLabel.FOREGROUND)
        accurate = coarse_mask(mask, mix, 64, np.random.default_rng(seed))
        assert np.array_equal(accurate, coarse_mask(mask, mix, 64, np.random.default_rng(0)))
    assert kinds == {-1, 0, 1, 2, 3}


def test_strength_scales_the_noise_and_nothing_else() -> None:
    assert CARELESS.scaled(1) == CARELESS
    half = CARELESS.scaled(0.5)
    assert half == replace(
        CARELESS, wrong=0.25, box_jitter=0.1, box_loose=0.2, box_shift=0.15, mask_noise=0.15
    )
    assert CARELESS.scaled(4).wrong == 1.0, "a probability"


@settings(max_examples=40, deadline=None)
@given(
    top=st.integers(0, 250),
    left=st.integers(0, 250),
    height=st.integers(1, 256),
    width=st.integers(1, 256),
    strength=st.floats(0, 3),
    seed=st.integers(0, 2**32),
)
def test_any_entity_and_strength_give_a_prompt_within_the_frame_decided_by_the_seed(
    top: int, left: int, height: int, width: int, strength: float, seed: int
) -> None:
    mask = np.zeros((256, 256), bool)
    mask[top : top + height, left : left + width] = True
    mix = CARELESS.scaled(strength)

    def draw() -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng(seed)
        return (*sample_prompt(mask, mix, rng), coarse_mask(mask, mix, 64, rng))

    coords, labels, logits = draw()
    for first, second in zip((coords, labels, logits), draw(), strict=True):
        assert np.array_equal(first, second)
    # A box is at least one pixel wide, so the far corner of one beyond the image is one beyond it.
    assert (coords >= 0).all() and (coords <= 257).all()
    assert labels[0] in (PointLabel.FOREGROUND, PointLabel.BOX_TOP_LEFT)
    empty = labels == PointLabel.EMPTY
    assert (np.diff(empty.astype(int)) >= 0).all(), "empty slots come last"
    assert (np.kron(logits[0] > 0, np.ones((4, 4), bool)) & mask).any()


def test_seeds_differ() -> None:
    drawn = {
        sample_prompt(disc(), CARELESS, np.random.default_rng(seed))[0].tobytes()
        for seed in range(50)
    }
    assert len(drawn) > 45


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"box": 1.2, "several": 0.0}, "box"),
        ({"several": -0.1}, "several"),
        ({"mask": 2.0}, "mask"),
        ({"wrong": float("nan")}, "wrong"),
        ({"box": 0.6, "several": 0.6}, r"box \+ several"),
        ({"centre": 0.7, "edge": 0.7}, r"centre \+ edge"),
        ({"centre": -0.4, "edge": 0.8}, "centre"),
        ({"centre": 0.8, "edge": -0.4}, "edge"),
        ({"wrong_reach": -1}, "wrong_reach"),
        ({"box_jitter": -0.1}, "box_jitter"),
        ({"box_loose": -0.1}, "box_loose"),
        ({"box_shift": -0.1}, "box_shift"),
        ({"mask_noise": -0.1}, "mask_noise"),
        ({"mask_noise": float("nan")}, "mask_noise"),
        ({"mask_cells": 0}, "mask_cells"),
    ],
)
def test_prompt_mix_with_bad_value_names_the_key(bad: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: got"):
        PromptMix(**bad)  # type: ignore[arg-type]


def test_prompt_mix_scaled_by_negative_strength_raises() -> None:
    with pytest.raises(ConfigError, match="got -"):
        CARELESS.scaled(-1)
