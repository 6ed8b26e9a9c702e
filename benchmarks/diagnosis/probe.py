"""Probe networks: how well features separate clicks that miss the entity from those that hit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from benchmarks.common.confounded_scenes import scene
from benchmarks.diagnosis.traces import clicks_of
from cpcsam.contract import EMBED_DIM
from cpcsam.model.sam import CpcSam
from training.data.sample import Sample

__all__ = ["probe", "separability", "visible_misses"]

HIDDEN, PROBES, PROBE_STEPS = 128, 3, 300
PROBE_SEED, PROBE_SCENES = 700_000, 64
SEEN = {
    "prompt alone (literal)": EMBED_DIM,
    "prompt and e(x)": 2 * EMBED_DIM,
    "prompt, e(x) and its neighbours": 6 * EMBED_DIM,
}
"""Inputs of a probe, by the leading features of `clicks_of` that it takes."""

Array = NDArray[np.float64]


def separability(scores: Array, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: share of pairs in which the positive scores higher."""
    # Mann-Whitney's U, divided by the number of pairs.
    ranks = stats.rankdata(scores)[positive]
    count = len(ranks)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (~positive).sum()))


def probe(features: Array, wrong: NDArray[np.bool_], unseen: Array) -> Array:
    """Score unseen prompts by a network like the task module's, trained to detect misses.

    Args:
        features: (n, d) of the training prompts.
        wrong: (n,) bool, prompts that miss.
        unseen: (m, d) of the tested prompts.

    Returns:
        (m,) logits, mean of `PROBES` networks.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-6
    known, tested = (
        torch.from_numpy((part - mean) / spread).float() for part in (features, unseen)
    )
    labels = torch.from_numpy(wrong).float()
    scores = torch.zeros(len(unseen))
    for seed in range(PROBES):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(known.shape[1], HIDDEN), nn.GELU(), nn.Dropout(0.5), nn.Linear(HIDDEN, 1)
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1.0)
        for _ in range(PROBE_STEPS):
            loss = nn.functional.binary_cross_entropy_with_logits(network(known)[:, 0], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scores += network.eval()(tested)[:, 0].detach() / PROBES
    return scores.double().numpy()


def visible_misses(model: CpcSam, target: Sequence[Sample]) -> dict[str, float]:
    """ROC AUC of a probe trained on base classes, on base and on target classes, by its inputs."""
    training = [scene(PROBE_SEED + index, target=False) for index in range(PROBE_SCENES)]
    # The first quarter is held out, to score base classes on.
    features, missed = clicks_of(model, training[PROBE_SCENES // 4 :])
    unseen = {"base": training[: PROBE_SCENES // 4], "target": target}
    tested = {name: clicks_of(model, samples) for name, samples in unseen.items()}
    return {
        f"{inputs}, {name} classes": separability(
            probe(features[:, :width], missed, clicks[:, :width]), wrong
        )
        for inputs, width in SEEN.items()
        for name, (clicks, wrong) in tested.items()
    }
