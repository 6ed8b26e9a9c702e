"""Loss functions: L_seg, best-of-multimask selection, L_task (Eq. 1), L_entity (Eq. 2) and Eq. 3.

Eq. 1 and Eq. 3 are sums over entities and prompt groups. Here they are means, so that β and the
learning rates mean the same for any number of entities, groups and images. Every term is a mean
over images: parts of a batch, of as many images each, have the batch's loss as their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cpcsam.checks import require_range
from cpcsam.contract import NUM_MASKS
from cpcsam.model.decoder import DecoderTrace

__all__ = [
    "CaplTerms",
    "LossConfig",
    "SamTerms",
    "area_average",
    "attention_loss",
    "bias_magnitude",
    "capl_terms",
    "entity_attention",
    "iou_loss",
    "sam_terms",
    "segmentation_loss",
    "select_masks",
]

DICE_SMOOTHING = 1.0
ATTENTION_MARGIN = 1e-3
"""Distance of scaled attention from 0 and 1, at which cross-entropy has no finite gradient."""
IOU_TOKENS = 1
"""The decoder's output tokens are the IoU token and then one token a mask."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the objectives.

    Attributes:
        bce: weight of binary cross-entropy in L_seg.
        dice: weight of the Dice loss in L_seg.
        iou: weight of the IoU head's squared error (Eq. 3).
        beta: β of Eq. 4, weight of L_entity.
        sparsity: λ of Eq. 2, weight of Σ mean |C| over the image→token attentions.
    """

    bce: float = 0.2
    dice: float = 0.8
    iou: float = 1.0
    beta: float = 0.6
    sparsity: float = 0.1

    def __post_init__(self) -> None:
        """Refuse weights below 0."""
        for name in ("bce", "dice", "iou", "beta", "sparsity"):
            require_range(f"bilevel.losses.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class SamTerms:
    """Terms of Eq. 3, scalars."""

    segmentation: Tensor
    iou: Tensor
    total: Tensor


@dataclass(frozen=True)
class CaplTerms:
    """Terms of L_task + β · L_entity, scalars; `sparsity` is Σ mean |C|, not yet weighted by λ."""

    task: Tensor
    attention: Tensor
    sparsity: Tensor
    total: Tensor


def _full_precision(x: Tensor) -> Tensor:
    """Convert bfloat16 and float16 of mixed precision to float32; keep float32 and float64."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def area_average(masks: Tensor, side: int) -> Tensor:
    """Average masks over the cells of a coarser grid.

    Args:
        masks: (..., S, S) bool or float.
        side: cells a side of the coarser grid.

    Returns:
        (..., side, side) float32 in [0, 1]: the share of each cell that the entity covers.
    """
    # (masks, 1, S, S), as pooling takes no further leading axes.
    flat = masks.float().flatten(0, -3).unsqueeze(1)
    return F.adaptive_avg_pool2d(flat, side).reshape(*masks.shape[:-2], side, side)


def _weighted(
    cross_entropy: Tensor, probability: Tensor, targets: Tensor, config: LossConfig
) -> Tensor:
    overlap = (probability * targets).sum((-2, -1))
    total = probability.sum((-2, -1)) + targets.sum((-2, -1))
    # Smoothed, so that an empty prediction of an empty target costs 0 and is not 0 / 0.
    dice = 1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
    return config.bce * cross_entropy.mean((-2, -1)) + config.dice * dice


def segmentation_loss(logits: Tensor, targets: Tensor, config: LossConfig) -> Tensor:
    """Compute L_seg = 0.2 · BCE + 0.8 · Dice of each mask.

    Args:
        logits: (..., h, w).
        targets: (..., h, w) in [0, 1]; broadcasts against logits.
        config: weights.

    Returns:
        (...), float32.
    """
    # Sums over thousands of pixels would lose their small terms in bfloat16.
    logits = _full_precision(logits)
    targets = targets.to(logits.dtype).expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return _weighted(cross_entropy, logits.sigmoid(), targets, config)


def select_masks(losses: Tensor) -> Tensor:
    """Select the outputs to train: mask 0, and of masks 1-3 the one of the lowest loss.

    A caller may take either (`MaskSelection`), so both are trained on every prompt.

    Args:
        losses: (B, P, 4).

    Returns:
        (B, P, 2) int64, indices of masks.
    """
    best = losses[..., 1:].argmin(-1) + 1
    return torch.stack([torch.zeros_like(best), best], dim=-1)


def iou_loss(low_res_masks: Tensor, iou_predictions: Tensor, targets: Tensor) -> Tensor:
    """Compute the squared error of the IoU head against the masks' true IoU.

    Args:
        low_res_masks: (B, P, 4, h, w) logits.
        iou_predictions: (B, P, 4).
        targets: (B, P, h, w) in [0, 1], area-averaged.

    Returns:
        (B, P), mean over the four masks.
    """
    # Comparisons have no gradient, so the true IoU is a constant of the loss.
    predicted, truth = low_res_masks > 0, (targets >= 0.5).unsqueeze(2)
    overlap = (predicted & truth).sum((-2, -1)).float()
    union = (predicted | truth).sum((-2, -1)).clamp(min=1)
    return (_full_precision(iou_predictions) - overlap / union).square().mean(-1)


def entity_attention(attention_maps: Sequence[Tensor], selected: Tensor) -> Tensor:
    """Compute A_e, the attention of each prompt's selected mask tokens over the image.

    Args:
        attention_maps: token→image probabilities, one (B, P, heads, T, G·G) a layer.
        selected: (B, P, M) int64, indices of masks.

    Returns:
        (B, P, M, G·G) float32, averaged over heads and layers, scaled to [0, 1] and clamped a
        little inside.
    """
    tokens = slice(IOU_TOKENS, IOU_TOKENS + NUM_MASKS)
    layers = [_full_precision(layer[..., tokens, :]).mean(2) for layer in attention_maps]
    # (B, P, 4, G·G)
    mean = torch.stack(layers).mean(0)
    chosen = mean.gather(2, selected.unsqueeze(-1).expand(-1, -1, -1, mean.shape[-1]))
    # A softmax over G·G cells is far below 1 everywhere; unscaled it would match no mask.
    low, high = chosen.amin(-1, keepdim=True), chosen.amax(-1, keepdim=True)
    scaled = (chosen - low) / (high - low).clamp(min=1e-8)
    return scaled.clamp(ATTENTION_MARGIN, 1 - ATTENTION_MARGIN)


def attention_loss(attention: Tensor, targets: Tensor, config: LossConfig) -> Tensor:
    """Compute L_attn of Eq. 2: L_seg with the attention in place of the mask's probability.

    Args:
        attention: (B, P, M, G·G) in (0, 1).
        targets: (B, P, S, S), the entities' masks.
        config: weights.

    Returns:
        (B, P), mean over the selected masks.
    """
    side = round(attention.shape[-1] ** 0.5)
    probability = attention.unflatten(-1, (side, side))
    grid = area_average(targets, side).to(probability.dtype).unsqueeze(2).expand_as(probability)
    cross_entropy = -(grid * probability.log() + (1 - grid) * (1 - probability).log())
    return _weighted(cross_entropy, probability, grid, config).mean(-1)


def bias_magnitude(biases: Sequence[Tensor], token_mask: Tensor) -> Tensor:
    """Average |C| over sites, heads, image positions and valid tokens, then over prompts.

    A prompt of few tokens weighs as much as one of many, so that a batch's value is the mean of
    its images' and may be averaged over parts of the batch.

    Args:
        biases: calibrations C, one (B, P, heads, T, G·G) a site.
        token_mask: (B, P, N+1), 1 for valid slots; the output tokens before them are always valid.

    Returns:
        Scalar; 0 without sites.
    """
    if not biases:
        return token_mask.new_zeros(())
    outputs = biases[0].shape[-2] - token_mask.shape[-1]
    valid = F.pad(_full_precision(token_mask), (outputs, 0), value=1.0)
    # (B, P, T)
    per_token = torch.stack([_full_precision(bias).abs().mean((2, 4)) for bias in biases]).mean(0)
    return ((per_token * valid).sum(-1) / valid.sum(-1)).mean()


def sam_terms(
    low_res_masks: Tensor,
    iou_predictions: Tensor,
    masks: Tensor,
    config: LossConfig,
) -> SamTerms:
    """Compute Eq. 3, the objective of θ.

    Args:
        low_res_masks: (B, P, 4, h, w) logits.
        iou_predictions: (B, P, 4).
        masks: (B, P, S, S) bool, the entity of each prompt.
        config: weights.
    """
    targets = area_average(masks, low_res_masks.shape[-1])
    losses = segmentation_loss(low_res_masks, targets.unsqueeze(2), config)
    selected = losses.gather(-1, select_masks(losses.detach()))
    segmentation = selected.mean()
    iou = iou_loss(low_res_masks, iou_predictions, targets).mean()
    return SamTerms(segmentation, iou, segmentation + config.iou * iou)


def capl_terms(
    low_res_masks: Tensor,
    trace: DecoderTrace,
    token_mask: Tensor,
    masks: Tensor,
    config: LossConfig,
) -> CaplTerms:
    """Compute L_task + β · L_entity (Eq. 1, 2 and 4), the objective of φ.

    Args:
        low_res_masks: (B, P, 4, h, w) logits.
        trace: of the same forward pass.
        token_mask: (B, P, N+1).
        masks: (B, P, S, S) bool, the entity of each prompt.
        config: weights.
    """
    targets = area_average(masks, low_res_masks.shape[-1])
    losses = segmentation_loss(low_res_masks, targets.unsqueeze(2), config)
    selected = select_masks(losses.detach())
    task = losses.gather(-1, selected).mean()
    attended = entity_attention(trace.attention_maps, selected)
    attention = attention_loss(attended, masks, config).mean()
    # Eq. 2 sums over sites, whereas `bias_magnitude` averages over those it gets.
    sites = [bias_magnitude([bias], token_mask) for bias in trace.image_to_token_biases]
    sparsity = torch.stack(sites).sum() if sites else task.new_zeros(())
    total = task + config.beta * (attention + config.sparsity * sparsity)
    return CaplTerms(task, attention, sparsity, total)
