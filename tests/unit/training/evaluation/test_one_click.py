from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.support.model_factory import noisy_sam
from tests.support.training_factory import discs
from training.data.prompt_sampling import central_pixel
from training.data.sample import Sample, digest_samples
from training.evaluation.one_click import (
    ACCURATE_CLICK,
    CARELESS_CLICK,
    OneClickResult,
    OneClickScores,
    dice_score,
    entity_clicks,
    iou_score,
    one_click,
    without_masks,
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


def test_accurate_clicks_are_central() -> None:
    sample = discs()
    clicks = entity_clicks(sample, 30, ACCURATE_CLICK)
    assert clicks == {label: central_pixel(sample.instances == label) for label in (1, 2, 3, 4)}
    assert entity_clicks(sample, 100_000) == {}


def test_careless_clicks_repeat_and_are_at_most_five_pixels_off() -> None:
    missed = 0
    for number in range(50):
        sample = replace(discs(), name=f"image {number}")
        clicks = entity_clicks(sample, 30, CARELESS_CLICK)
        assert clicks == entity_clicks(sample, 30, CARELESS_CLICK)
        for label, (x, y) in clicks.items():
            entity = sample.instances == label
            near = ndimage.binary_dilation(entity, iterations=5)
            assert near[int(y), int(x)]
            missed += not entity[int(y), int(x)]
    assert 70 < missed < 130


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
    from torchmetrics.functional import segmentation  # it takes as long as torch
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

    predicted, truth = random_masks(seed)
    pair = torch.from_numpy(predicted), torch.from_numpy(truth)
    stacked = [mask[None, None].int() for mask in pair]
    for expected in (binary_f1_score(*pair), segmentation.dice_score(*stacked, num_classes=1)):
        assert dice_score(predicted, truth) == pytest.approx(float(expected), abs=TOLERANCE)
    for expected in (
        binary_jaccard_index(*pair),
        segmentation.mean_iou(*stacked, num_classes=1),
    ):
        assert iou_score(predicted, truth) == pytest.approx(float(expected), abs=TOLERANCE)


def test_results_without_masks_keep_no_memory() -> None:
    (kept,) = without_masks([result(0.2, 0.3)])
    assert kept.mask.size == 0 and kept.mask.base is None
    assert kept.dice == result(0.2, 0.3).dice


def test_sample_whose_name_is_no_utf_8_is_clicked_and_has_a_digest() -> None:
    named = replace(discs(0), name="bl\udce4tt")
    assert entity_clicks(named, 30).keys() == entity_clicks(discs(0), 30).keys()
    assert digest_samples([named]) != digest_samples([discs(0)])
