"""Loss functions of point calibration, whose correct positions are known while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from cpcsam.contract import PATCH_SIZE
from cpcsam.model.gated_points import PointEstimate, offset_grid
from cpcsam.model.point_calibration import is_moved, of_each_kind

__all__ = ["PointTerms", "gated_terms", "point_terms"]

TOLERANCE: Final = 0.25
"""In cells of the embedding: nearer, a point's error counts by its square."""
RIGHT: Final = 0.2
"""In sixteenths of the encoder's frame: a click or a box side this near is right already."""
SPREAD: Final = 0.3
"""Standard deviation of the target distribution of a click's move, in the same unit."""
PLACES_WEIGHT: Final = 0.5
"""Of the distribution's cross-entropy, beside which staying has weight 1."""


@dataclass(frozen=True)
class PointTerms:
    """Terms of point calibration, averaged over prompts.

    Attributes:
        distance: of moves; in cells for the form `offset`.
        stay: cross-entropy of staying; 0 for the form `offset`.
        total: their sum.
    """

    distance: Tensor
    stay: Tensor
    total: Tensor


def point_terms(point_coords: Tensor, point_labels: Tensor, accurate_coords: Tensor) -> PointTerms:
    """Compute the smooth L1 distance of calibrated points from accurate ones, form `offset`.

    Args:
        point_coords: (B, Q, N, 2), pixels of the encoder's frame, after calibration.
        point_labels: (B, Q, N) int32, `PointLabel`.
        accurate_coords: (B, Q, N, 2), the points of an accurate annotator.
    """
    moved, wanted = (coords / PATCH_SIZE for coords in (point_coords, accurate_coords))
    error = F.smooth_l1_loss(moved, wanted, reduction="none", beta=TOLERANCE)
    # Other points stay: further clicks mark where a mask was wrong, not where the entity is.
    distance = (error.sum(-1) * is_moved(point_labels)).sum(-1).mean()
    return PointTerms(distance, torch.zeros_like(distance), distance)


def gated_terms(
    estimate: PointEstimate,
    point_coords: Tensor,
    point_labels: Tensor,
    accurate_coords: Tensor,
    unit: float,
) -> PointTerms:
    """Compute the loss of the form `gated`.

    A click's distribution is compared with a narrow one around the accurate place and a box side
    with the tight box's, both only if they are wrong; that they are right is a binary target.

    Args:
        estimate: of the prompts.
        point_coords: (B, Q, N, 2), pixels of the encoder's frame, as they were given.
        point_labels: (B, Q, N) int32, `PointLabel`.
        accurate_coords: (B, Q, N, 2), the points of an accurate annotator.
        unit: a sixteenth of the encoder's frame in pixels.
    """
    places, click_stays, sides, sides_stay = (part.to(point_coords.dtype) for part in estimate)
    slots = of_each_kind(point_labels)
    # (B, Q, 2) each, in units; (0, 0) for a kind that a prompt lacks
    click, *corners = (
        torch.where(slot, accurate_coords - point_coords, 0.0).sum(2) / unit for slot in slots
    )
    clicked, _, boxed = (slot.any(2).squeeze(-1).to(click.dtype) for slot in slots)
    right = (click.norm(dim=-1) < RIGHT).to(click.dtype)
    error = (click.unsqueeze(-2) - offset_grid(click)).square().sum(-1)
    target = (-error / (2 * SPREAD**2)).softmax(-1)
    moves = -(target * places.log_softmax(-1)).sum(-1) * (1 - right) * PLACES_WEIGHT
    stay = F.binary_cross_entropy_with_logits(click_stays.squeeze(-1), right, reduction="none")
    wanted = torch.cat(corners, dim=-1)
    in_place = (wanted.abs() < RIGHT).to(wanted.dtype)
    error = F.smooth_l1_loss(sides / unit, wanted, reduction="none", beta=TOLERANCE)
    side_moves = (error * (1 - in_place)).sum(-1)
    sides_right = F.binary_cross_entropy_with_logits(sides_stay, in_place, reduction="none")
    distance = (moves * clicked + side_moves * boxed).mean()
    staying = (stay * clicked + sides_right.sum(-1) / 2 * boxed).mean()
    return PointTerms(distance, staying, distance + staying)
