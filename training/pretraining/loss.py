"""Pretraining loss: SAM's focal and Dice loss, its second round, and an auxiliary head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcsam.contract import EMBED_DIM, LOW_RES_FACTOR, PointLabel
from cpcsam.model.sam import CpcSam
from training.bilevel.losses import area_average, iou_loss
from training.data.prompt_sampling import pixel_inside
from training.pretraining.data import PretrainBatch

__all__ = ["AuxiliaryHead", "add_corrections", "batch_loss", "mask_losses"]

FOCAL_WEIGHT = 20.0
FOCAL_GAMMA = 2.0


class AuxiliaryHead(nn.Module):
    """Auxiliary head: foreground and boundary from the embedding, dense supervision."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(EMBED_DIM, 2 * LOW_RES_FACTOR**2, 1)

    def forward(self, image_embeddings: Tensor, instances: Tensor) -> Tensor:
        """Compute the cross-entropy of both maps at the low-resolution grid."""
        logits = F.pixel_shuffle(self.project(image_embeddings), LOW_RES_FACTOR).float()
        labels = instances.float().unsqueeze(1)
        # Where a 3 × 3 neighbourhood's highest and lowest label differ, there is a boundary.
        high = F.max_pool2d(labels, 3, 1, 1)
        low = -F.max_pool2d(-labels, 3, 1, 1)
        maps = torch.cat([labels > 0, high != low], dim=1).float()
        targets = F.adaptive_avg_pool2d(maps, logits.shape[-1])
        return F.binary_cross_entropy_with_logits(logits, targets)


def mask_losses(low_res_masks: Tensor, targets: Tensor) -> Tensor:
    """Compute 20 · focal + Dice loss (SAM, Appendix A) of each mask.

    Args:
        low_res_masks: (B, P, M, h, w) logits.
        targets: (B, P, 1, h, w), area-averaged to the same grid.

    Returns:
        (B, P, M).
    """
    logits = low_res_masks.float()
    targets = targets.expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    # |p − y| is focal loss's 1 − p_t, and is defined for area-averaged targets, too.
    focal = ((probability - targets).abs() ** FOCAL_GAMMA * cross_entropy).mean((-2, -1))
    overlap = (probability * targets).sum((-2, -1))
    total = probability.sum((-2, -1)) + targets.sum((-2, -1))
    return FOCAL_WEIGHT * focal + 1 - (2 * overlap + 1) / (total + 1)


def batch_loss(
    model: CpcSam, head: AuxiliaryHead, batch: PretrainBatch, *, correct: bool, auxiliary: float
) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of a batch, or of its second round, prompted by the first round's masks."""
    image_size = batch.image.shape[-1]
    device = batch.image.device
    input_size = torch.full((len(batch.image), 2), image_size, dtype=torch.int32, device=device)
    embeddings = model.encode_image(batch.image, input_size)
    coords, labels, dense = batch.point_coords, batch.point_labels, None
    if correct:
        with torch.no_grad():
            first, _ = model.decode_masks(
                embeddings, *model.encode_prompts(embeddings, coords, labels)
            )
        coords, labels = add_corrections(batch, first[:, :, 0].float())
        dense = model.encode_masks(first[:, :, :1].detach().float())
    low_res_masks, iou_predictions = model.decode_masks(
        embeddings, *model.encode_prompts(embeddings, coords, labels), dense
    )
    targets = area_average(batch.masks, low_res_masks.shape[-1])
    losses = mask_losses(low_res_masks, targets.unsqueeze(2))
    # Mask 0 and the best of masks 1-3, since a caller may request either.
    segmentation = losses[..., 0].mean() + losses[..., 1:].amin(-1).mean()
    iou = iou_loss(low_res_masks, iou_predictions, targets).mean()
    loss = segmentation + iou
    if auxiliary:
        loss = loss + auxiliary * head(embeddings, batch.instances)
    return loss, {"loss": float(loss.detach()), "mask_0": float(losses[..., 0].mean().detach())}


def add_corrections(batch: PretrainBatch, low_res_masks: Tensor) -> tuple[Tensor, Tensor]:
    """Add a click in the error region of each first-round mask that has a free slot.

    Args:
        batch: the batch with its first prompts.
        low_res_masks: (B, P, h, w) logits of the first round.

    Returns:
        point_coords and point_labels of the same shape as the batch's.
    """
    size = batch.masks.shape[-1]
    predicted = F.interpolate(low_res_masks, (size, size), mode="bilinear") > 0
    # Copied once: the loop below reads single elements, each of which a GPU would wait for.
    wrong = (predicted != batch.masks).cpu().numpy()
    masks = batch.masks.cpu()
    coords, labels = batch.point_coords.cpu().clone(), batch.point_labels.cpu().clone()
    # Seeded by the errors, so that a resumed run draws the same clicks.
    rng = np.random.default_rng(int(wrong.sum()))
    for image, prompt in np.ndindex(*labels.shape[:2]):
        free = (labels[image, prompt] == PointLabel.EMPTY).nonzero()
        if not len(free) or not wrong[image, prompt].any():
            continue
        x, y = pixel_inside(wrong[image, prompt], rng)
        missed = bool(masks[image, prompt, int(y), int(x)])
        coords[image, prompt, free[0]] = torch.tensor([x, y])
        labels[image, prompt, free[0]] = PointLabel.FOREGROUND if missed else PointLabel.BACKGROUND
    return coords.to(batch.masks.device), labels.to(batch.masks.device)
