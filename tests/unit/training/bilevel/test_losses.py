from __future__ import annotations

import math

import pytest
import torch

from cpcsam.model.decoder import DecoderTrace
from training.bilevel.losses import (
    LossConfig,
    area_average,
    attention_loss,
    bias_magnitude,
    capl_terms,
    entity_attention,
    iou_loss,
    sam_terms,
    segmentation_loss,
    select_masks,
)

BCE_ONLY = LossConfig(bce=1.0, dice=0.0)
DICE_ONLY = LossConfig(bce=0.0, dice=1.0)


def test_area_average_is_the_covered_share_of_each_cell() -> None:
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0, :3] = True
    mask[0, 0, 1, 0] = True
    expected = torch.tensor([[[[0.75, 0.25], [0.0, 0.0]]]])
    assert torch.equal(area_average(mask, 2), expected)


def test_segmentation_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    targets = torch.tensor([[1.0, 0.0]])
    bce = (math.log(2.0) + math.log(4.0)) / 2
    dice = 1 - (2 * 0.5 + 1) / (0.5 + 0.75 + 1 + 1)
    assert segmentation_loss(logits, targets, BCE_ONLY).item() == pytest.approx(bce, abs=1e-6)
    assert segmentation_loss(logits, targets, DICE_ONLY).item() == pytest.approx(dice, abs=1e-6)
    expected = 0.2 * bce + 0.8 * dice
    assert segmentation_loss(logits, targets, LossConfig()).item() == pytest.approx(expected)


def test_segmentation_loss_falls_to_zero_with_the_right_mask() -> None:
    targets = (torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    right = segmentation_loss(40 * (targets - 0.5), targets, LossConfig())
    wrong = segmentation_loss(-40 * (targets - 0.5), targets, LossConfig())
    assert right.shape == (2, 3, 1)
    assert right.max() < 1e-6
    assert wrong.min() > 1


def test_mask_0_and_the_best_of_the_others_are_selected() -> None:
    losses = torch.tensor([[[0.1, 0.9, 0.4, 0.6], [0.9, 0.2, 0.3, 0.4]]])
    assert select_masks(losses).tolist() == [[[0, 2], [0, 1]]]


def test_only_selected_masks_receive_gradient() -> None:
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[..., 2:5, 2:5] = True
    logits = torch.zeros(1, 1, 4, 8, 8)
    logits[:, :, 2] = 2 * (masks.float() - 0.5)
    logits.requires_grad_()
    terms = sam_terms(logits, torch.zeros(1, 1, 4), masks, LossConfig())
    (gradient,) = torch.autograd.grad(terms.segmentation, logits)
    assert (gradient.abs().sum((-2, -1)) > 0).tolist() == [[[True, False, True, False]]]


def test_iou_loss_by_hand() -> None:
    targets = torch.tensor([[[[1.0, 1.0], [0.0, 0.4]]]])
    logits = torch.full((1, 1, 4, 2, 2), -1.0)
    logits[0, 0, 0, 0] = 1.0
    logits[0, 0, 1, 0, 0] = 1.0
    logits[0, 0, 2] = 1.0
    predictions = torch.tensor([[[1.0, 0.0, 0.5, 0.5]]])
    expected = (0 + 0.5**2 + 0 + 0.5**2) / 4
    assert iou_loss(logits, predictions, targets).item() == pytest.approx(expected)


def test_entity_attention_averages_selects_and_scales() -> None:
    maps = torch.zeros(2, 1, 1, 2, 6, 4)
    maps[0, 0, 0, :, 3] = torch.tensor([0.1, 0.1, 0.1, 0.7])
    maps[1, 0, 0, :, 3] = torch.tensor([0.1, 0.3, 0.1, 0.5])
    maps[..., 1, :] = torch.tensor([0.4, 0.2, 0.2, 0.2])
    attention = entity_attention(list(maps), torch.tensor([[[0, 2]]]))
    assert attention.shape == (1, 1, 2, 4)
    assert attention[0, 0, 0].tolist() == pytest.approx([0.999, 0.001, 0.001, 0.001])
    assert attention[0, 0, 1].tolist() == pytest.approx([0.001, 0.2, 0.001, 0.999])


def test_flat_attention_stays_finite() -> None:
    flat = torch.full((1, 1, 1, 8, 6, 4), 0.25).requires_grad_()
    attention = entity_attention(list(flat), torch.zeros(1, 1, 1, dtype=torch.long))
    targets = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    loss = attention_loss(attention, targets, LossConfig()).sum()
    (gradient,) = torch.autograd.grad(loss, flat)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_attention_loss_by_hand() -> None:
    attention = torch.tensor([[[[0.5, 0.25, 0.25, 0.25]]]])
    targets = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    targets[..., :2, :2] = True
    bce = -(math.log(0.5) + 3 * math.log(0.75)) / 4
    dice = 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)
    assert attention_loss(attention, targets, BCE_ONLY).item() == pytest.approx(bce)
    assert attention_loss(attention, targets, DICE_ONLY).item() == pytest.approx(dice)


def test_bias_magnitude_leaves_empty_slots_out() -> None:
    bias = torch.zeros(1, 1, 2, 5, 3)
    bias[..., :3, :] = -2.0
    bias[..., 3, :] = 4.0
    bias[..., 4, :] = 100.0
    token_mask = torch.tensor([[[1.0, 0.0]]])
    assert bias_magnitude([bias], token_mask).item() == pytest.approx((3 * 2 + 4) / 4)
    assert bias_magnitude([bias, torch.zeros_like(bias)], token_mask).item() == pytest.approx(1.25)
    assert bias_magnitude([], token_mask).item() == 0


def test_bias_magnitude_weighs_prompts_equally() -> None:
    bias = torch.zeros(2, 2, 2, 5, 3)
    bias[0, 0] = 1.0
    bias[0, 1, :, :4] = 2.0
    bias[1, :, :, :3] = 4.0
    token_mask = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
    whole = bias_magnitude([bias], token_mask).item()
    assert whole == pytest.approx((1 + 2 + 4 + 4 * 3 / 5) / 4)
    halves = [bias_magnitude([bias[i : i + 1]], token_mask[i : i + 1]).item() for i in range(2)]
    assert sum(halves) / 2 == pytest.approx(whole)


def test_capl_terms_add_up_with_beta_and_lambda() -> None:
    generator = torch.Generator().manual_seed(0)
    trace = DecoderTrace(
        attention_maps=[torch.rand(1, 2, 8, 7, 16, generator=generator) for _ in range(3)],
        image_to_token_biases=[torch.randn(1, 2, 8, 7, 16, generator=generator) for _ in range(2)],
    )
    masks = torch.rand(1, 2, 64, 64, generator=generator) > 0.5
    logits = torch.randn(1, 2, 4, 16, 16, generator=generator)
    config = LossConfig(beta=0.6, sparsity=0.1)
    terms = capl_terms(logits, trace, torch.ones(1, 2, 2), masks, config)
    expected = terms.task + 0.6 * (terms.attention + 0.1 * terms.sparsity)
    assert terms.total.item() == pytest.approx(expected.item())
    sites = sum(bias.abs().mean() for bias in trace.image_to_token_biases)
    assert terms.sparsity.item() == pytest.approx(float(sites))
    assert min(term.item() for term in (terms.task, terms.attention, terms.sparsity)) > 0.1


def test_losses_have_right_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(1, 2, 3, 3, generator=generator)
    attention = torch.rand(1, 1, 1, 4, generator=generator, dtype=torch.float64)
    attention = (0.2 + 0.6 * attention).requires_grad_()
    masks = torch.rand(1, 1, 8, 8, generator=generator) > 0.5
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, targets, LossConfig()), logits)
    assert torch.autograd.gradcheck(lambda x: attention_loss(x, masks, LossConfig()), attention)
