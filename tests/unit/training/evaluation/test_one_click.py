from __future__ import annotations

import numpy as np
import pytest

from tests.support.model_factory import noisy_sam
from training.data.sample import Sample
from training.evaluation.one_click import (
    OneClickResult,
    OneClickScores,
    dice_score,
    iou_score,
    one_click,
)

EMPTY = np.zeros((4, 4), bool)


def test_scores_by_hand() -> None:
    predicted, truth = EMPTY.copy(), EMPTY.copy()
    predicted[0, :3] = True
    truth[0, 1:] = True
    assert dice_score(predicted, truth) == pytest.approx(2 * 2 / 6)
    assert iou_score(predicted, truth) == pytest.approx(2 / 4)
    assert dice_score(EMPTY, truth) == 0
    assert dice_score(EMPTY, EMPTY) == iou_score(EMPTY, EMPTY) == 1


def result(iou: float, prediction: float) -> OneClickResult:
    return OneClickResult("s", 1, (0, 0), 2 * iou / (1 + iou), iou, prediction, EMPTY)


def test_means_and_correlation() -> None:
    scores = OneClickScores.of([result(0.2, 0.3), result(0.4, 0.5), result(0.6, 0.7)])
    assert scores.entities == 3
    assert scores.iou == pytest.approx(0.4)
    assert scores.iou_correlation == pytest.approx(1)
    assert OneClickScores.of([result(0.5, 0.1), result(0.5, 0.9)]).iou_correlation == 0


def test_one_click_segments_every_large_entity_however_it_is_split() -> None:
    rng = np.random.default_rng(0)
    instances = np.zeros((128, 128), np.int32)
    for label, (top, left) in enumerate([(5, 5), (60, 60), (100, 20)], start=1):
        instances[top : top + 20, left : left + 20] = label
    instances[120:122, 120:122] = 4
    sample = Sample("s", rng.integers(0, 256, (128, 128, 3), np.uint8), instances)
    model = noisy_sam()
    together = list(one_click(model, [sample]))
    alone = list(one_click(model, [sample], prompts_per_call=1))
    assert [r.label for r in together] == [1, 2, 3]
    for first, second in zip(together, alone, strict=True):
        assert first.click == second.click
        assert first.iou_prediction == pytest.approx(second.iou_prediction, abs=1e-4)
        assert (first.mask != second.mask).mean() < 0.001
        assert first.dice == dice_score(first.mask, instances == first.label)
