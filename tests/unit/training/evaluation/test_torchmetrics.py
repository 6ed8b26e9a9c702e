"""Our metrics are those of torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index
from torchmetrics.functional.segmentation import dice_score as library_dice
from torchmetrics.functional.segmentation import mean_iou as library_iou

from training.evaluation.one_click import dice_score, iou_score

TOLERANCE = 1e-6


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of random size and density, each with a pixel."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 40, 2)
    masks = [rng.random(size) < rng.random() for _ in range(2)]
    for mask in masks:
        mask[tuple(rng.integers(0, size))] = True
    return masks[0], masks[1]


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_dice_and_iou_are_those_of_torchmetrics(seed: int) -> None:
    predicted, truth = random_masks(seed)
    pair = torch.from_numpy(predicted), torch.from_numpy(truth)
    stacked = [mask[None, None].int() for mask in pair]
    for expected in (binary_f1_score(*pair), library_dice(*stacked, num_classes=1).squeeze()):
        assert dice_score(predicted, truth) == pytest.approx(float(expected), abs=TOLERANCE)
    for expected in (
        binary_jaccard_index(*pair),
        library_iou(*stacked, num_classes=1).squeeze(),
    ):
        assert iou_score(predicted, truth) == pytest.approx(float(expected), abs=TOLERANCE)
