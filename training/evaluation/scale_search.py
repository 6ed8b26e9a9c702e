"""Search for the scale at which a base segments a dataset best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cpcsam.model.sam import CpcSam
from training.data.sample import Sample, entity_labels
from training.evaluation.one_click import CLICKS, one_click

__all__ = ["WindowScore", "best_window", "score_windows"]

IMAGES = 40
ENTITIES_PER_IMAGE = 2
RATIO = 1.5
"""From one window's side to the next smaller one's."""

LARGEST_ENLARGEMENT = 6
MARGIN = 0.02
"""Dice by which a smaller window must be better, as it takes more tiles to serve."""


class WindowScore(NamedTuple):
    """Mean Dice of accurate and careless clicks in windows of one side around each entity.

    Attributes:
        window: side in pixels; None for whole images.
        dice: over entities; what a window cuts off counts as missed.
    """

    window: int | None
    dice: float


def best_window(scores: Sequence[WindowScore]) -> int | None:
    """Return the largest window whose Dice is within `MARGIN` of the best."""
    best = max(score.dice for score in scores)
    fits = [score.window for score in scores if score.dice >= best - MARGIN]
    return None if None in fits else max(window for window in fits if window is not None)


def score_windows(
    model: CpcSam, samples: Sequence[Sample], min_area: int = 30
) -> list[WindowScore]:
    """Score whole images and ever smaller windows, with up to 80 entities of up to 40 images.

    Args:
        model: the base, in evaluation mode.
        samples: annotated images; those read on access are read once.
        min_area: entities of fewer pixels, in the image's own resolution, are left out.

    Returns:
        Scores by window, whole images first; that one alone if there is no image.
    """
    if not len(samples):
        return [WindowScore(None, 0.0)]
    count = min(IMAGES, len(samples))
    chosen = [samples[index * len(samples) // count] for index in range(count)]
    entities = [(sample, label) for sample in chosen for label in _spread(sample, min_area)]
    longest = float(np.median([max(sample.instances.shape) for sample in chosen]))
    least = model.image_size / LARGEST_ENLARGEMENT
    sides = [round(longest / RATIO**power) for power in range(1, 12)]
    windows = [None, *(side for side in sides if side >= least)]
    bar = tqdm(total=len(windows) * len(entities), desc="scale", unit="entity", leave=False)
    scores = []
    for window in windows:
        dice = []
        for sample, label in entities:
            dice.append(_dice(model, sample, label, window))
            bar.update()
        scores.append(WindowScore(window, float(np.mean(dice)) if dice else 0.0))
    bar.close()
    return scores


def _spread(sample: Sample, min_area: int) -> list[int]:
    labels = entity_labels(sample.instances, min_area)
    count = min(ENTITIES_PER_IMAGE, len(labels))
    return [int(labels[index * len(labels) // count]) for index in range(count)]


def _dice(model: CpcSam, sample: Sample, label: int, window: int | None) -> float:
    height, width = sample.instances.shape
    side = max(height, width) if window is None else window
    rows, columns = np.nonzero(sample.instances == label)
    # Moved inside the image; along a shorter axis, all of it is shown.
    top = int(np.clip(rows.mean() - side / 2, 0, max(0, height - side)))
    left = int(np.clip(columns.mean() - side / 2, 0, max(0, width - side)))
    cut = (slice(top, top + side), slice(left, left + side))
    instances = np.where(sample.instances[cut] == label, sample.instances[cut], 0)
    # One name for all windows, since it decides the careless click.
    shown = replace(
        sample, name=f"{sample.name}#{label}", image=sample.image[cut], instances=instances
    )
    results = list(one_click(model, [shown], min_area=1, annotators=tuple(CLICKS.values())))
    truth = instances > 0
    dice = [
        2 * int((result.mask & truth).sum()) / (int(result.mask.sum()) + len(rows))
        for result in results
    ]
    return float(np.mean(dice)) if dice else 0.0
