from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.common.confounded_scenes import scene
from benchmarks.diagnosis.probe import probe, separability
from benchmarks.diagnosis.traces import answers_of, clicks_of
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.capl import FULL_CAPL, CaPL
from tests.support.paths import ROOT

BASE = ROOT / "weights/vit_t"


def test_separability_equals_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=40).round(1), rng.random(40) < 0.4
    pairs = stats.mannwhitneyu(scores[positive], scores[~positive])
    expected = pairs.statistic / (positive.sum() * (~positive).sum())
    assert separability(scores, positive) == pytest.approx(expected)


def test_probe_separates_by_an_informative_feature_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.diagnosis.probe.PROBE_STEPS", 60)
    rng = np.random.default_rng(0)
    features, unseen = rng.normal(size=(400, 8)), rng.normal(size=(400, 8))
    informed = separability(probe(features, features[:, 3] > 0, unseen), unseen[:, 3] > 0)
    noise = separability(probe(features, rng.random(400) < 0.5, unseen), rng.random(400) < 0.5)
    assert informed > 0.95
    assert abs(noise - 0.5) < 0.1


def test_answers_of_base_trace_dice_attention_and_points() -> None:
    model, samples = load_base(BASE), [scene(1, target=True)]
    careless, accurate = (answers_of(model, samples, strength) for strength in (1.0, 0.0))
    assert len(careless.dice) == 9 * 5
    assert careless.missed.sum() > 3
    assert not accurate.missed.any()
    assert not (careless.missed & ~careless.clicked).any()
    assert accurate.dice.mean() > careless.dice[careless.missed].mean()
    assert (careless.inside > careless.covered).mean() > 0.8
    assert not careless.change.any() and not careless.bias.any()
    assert not accurate.off[~accurate.clicked].any()
    assert careless.off[careless.missed].mean() > careless.off[~careless.missed].mean() > 0
    assert np.array_equal(careless.off, careless.off_moved)
    features, missed = clicks_of(model, samples)
    assert features.shape == (careless.clicked.sum(), 6 * 256)
    assert missed.sum() == careless.missed.sum()


def test_answers_of_calibrated_model_trace_changes_biases_and_moves() -> None:
    model = load_base(BASE)
    model.capl = CaPL(FULL_CAPL)
    assert model.capl.task is not None and model.capl.entity is not None
    assert model.capl.task.points is not None
    for network in (model.capl.task.sparse, model.capl.entity.sites[0].token_mlp):
        network[-1].bias.data.fill_(0.1)
    # To the top left rather than elsewhere, and unlikely to stay.
    places = model.capl.task.points.click[-1].bias
    places.data = torch.linspace(1, -1, len(places))
    found = answers_of(model, [scene(1, target=True)], 1.0)
    assert (found.change > 0).all() and (found.bias > 0).all()
    assert np.array_equal(found.off != found.off_moved, found.clicked)
