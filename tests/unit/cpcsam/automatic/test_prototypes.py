"""Arithmetic of prototypes: clusters, whitening and the logistic curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.prototypes import cluster, fit_logistic, sigmoid, whitening

vectors = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).normal(size=(seed % 40 + 1, 5)).astype(np.float32)
)


@given(vectors, st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_cluster_returns_few_unit_vectors_deterministically(raw: np.ndarray, count: int) -> None:
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    centres = cluster(unit, count)
    assert 1 <= len(centres) <= min(count, len(unit))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(centres, cluster(unit, count))


def test_cluster_separates_groups() -> None:
    rng = np.random.default_rng(0)
    axes = np.eye(5, dtype=np.float32)[:3]
    raw = np.repeat(axes, 20, axis=0) + rng.normal(0, 0.05, (60, 5))
    unit = np.float32(raw / np.linalg.norm(raw, axis=1, keepdims=True))
    assert ((cluster(unit, 3) @ axes.T).max(0) > 0.99).all()


def test_whitening_equalizes_within_group_variance() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([5.0, 1.0, 0.2])
    groups = [np.float32(rng.normal(mean, spread, (4000, 3))) for mean in (0, 10)]
    whitened = (groups[0] @ whitening(groups, 1e-6)).std(0)
    np.testing.assert_allclose(whitened, 1, rtol=0.05)
    kept = whitening(groups, 1.0)
    np.testing.assert_allclose(kept, kept[0, 0] * np.eye(3), atol=1e-6)


def test_fit_logistic_recovers_the_curve() -> None:
    margins = np.random.default_rng(0).normal(0, 3, 20_000)
    slope, intercept = fit_logistic(margins, sigmoid(1.5 * margins - 2))
    assert slope == pytest.approx(1.5, rel=0.02)
    assert intercept == pytest.approx(-2, rel=0.02)


def test_fit_logistic_slope_is_never_negative() -> None:
    margins = np.linspace(-1, 1, 50)
    assert fit_logistic(margins, margins < 0)[0] == 0
