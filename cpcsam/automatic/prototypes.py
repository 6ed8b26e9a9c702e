"""Arithmetic of prototypes: spherical k-means, whitening, logistic regression. Plain numpy.

scipy.special's `expit` and `logsumexp` differ from the functions here in the last bit of float32,
and the similarity maps of stored vocabularies must not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["cluster", "fit_logistic", "log_mean_exp", "sigmoid", "whitening"]

CLUSTER_STEPS: Final = 25
COVARIANCE_BLOCK: Final = 8192
NEWTON_STEPS: Final = 50
RIDGE: Final = 1e-4
"""Keeps the curve finite if the examples are separable."""

Array = NDArray[np.float32]


def cluster(vectors: Array, count: int) -> Array:
    """Cluster unit vectors by spherical k-means, deterministically.

    The first centre is nearest the mean, each further centre is farthest from all before it.

    Args:
        vectors: (n, d) of length 1, n > 0.
        count: upper bound on the clusters.

    Returns:
        (k, d) of length 1, k <= count.
    """
    centres = vectors[[int((vectors @ vectors.mean(0)).argmax())]]
    while len(centres) < min(count, len(vectors)):
        nearest = (vectors @ centres.T).max(1)
        # Only copies of the centres are left.
        if nearest.min() > 1 - 1e-6:
            break
        centres = np.vstack([centres, vectors[[int(nearest.argmin())]]])
    for _ in range(CLUSTER_STEPS):
        member = (vectors @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, member, vectors)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        # A cluster without members, or whose members cancel, keeps its centre.
        moved = np.where(length > 1e-6, sums / np.maximum(length, 1e-6), centres)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return np.asarray(centres, np.float32)


def whitening(groups: Sequence[Array], shrinkage: float) -> Array:
    """Return the whitening matrix (ZCA) of the shrunk within-group covariance.

    Args:
        groups: (n_i, d) each; groups of fewer than 2 are left out.
        shrinkage: weight in (0, 1] of the identity, which 1 returns up to a factor.

    Returns:
        (d, d) float32.
    """
    width = groups[0].shape[1]
    covariances = [_covariance(group) for group in groups if len(group) > 1]
    covariance = np.mean(covariances, axis=0) if covariances else np.eye(width)
    level = max(float(np.trace(covariance)) / width, 1e-12)
    values, vectors = np.linalg.eigh(
        (1 - shrinkage) * covariance + shrinkage * level * np.eye(width)
    )
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T, np.float32)


def _covariance(vectors: Array) -> NDArray[np.float64]:
    """Return the covariance (d, d) of (n, d), in blocks to bound memory in double precision."""
    mean = vectors.mean(0, dtype=np.float64)
    total = np.zeros((len(mean), len(mean)))
    for start in range(0, len(vectors), COVARIANCE_BLOCK):
        centred = vectors[start : start + COVARIANCE_BLOCK] - mean
        total += centred.T @ centred
    return total / (len(vectors) - 1)


def fit_logistic(margins: NDArray[Any], targets: NDArray[Any]) -> tuple[float, float]:
    """Fit sigmoid(slope·m + intercept) by Newton's method; the slope is never negative.

    Args:
        margins: (n,).
        targets: (n,) in [0, 1].
    """
    # Scaled, so that the ridge weighs the same whatever the unit of the margins.
    scale = max(float(margins.std()), 1e-6)
    design = np.stack([margins / scale, np.ones(len(margins))], axis=1).astype(np.float64)
    weights = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        predicted = sigmoid(design @ weights)
        gradient = design.T @ (predicted - targets) / len(targets) + RIDGE * weights
        curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design / len(targets)
        step = np.linalg.solve(curvature + RIDGE * np.eye(2), gradient)
        # A full Newton step overshoots where the curve is saturated.
        weights -= np.clip(step, -4, 4)
        if np.abs(step).max() < 1e-8:
            break
    return max(float(weights[0]) / scale, 0.0), float(weights[1])


def log_mean_exp(values: NDArray[Any]) -> NDArray[Any]:
    """Return log(mean(exp(values))) along the last axis; -50 if the axis is empty."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], -50.0, np.float32)
    top = values.max(-1)
    result: NDArray[Any] = top + np.log(np.exp(values - top[..., None]).mean(-1))
    return result


def sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / (1 + exp(-values)), without overflow."""
    result: NDArray[Any] = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return result
