"""Point calibration that tells whether a point is right already, and moves it only if it is not.

For a click it predicts a distribution over places around it, and the probability that it should
stay; for a box the offset of each side, and for each the probability that it should stay. The
embeddings are normalised by image and channel (instance normalisation), as what differs between
stains or textures is mostly their mean and spread.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from cpcsam.model.point_calibration import PointCalibration, of_each_kind

__all__ = ["GatedPointCalibration", "PointEstimate", "gate", "offset_grid"]

PLACES: Final = 9
"""Places a side of the grid that a click's distribution is over."""
REACH: Final = 2.0
"""Half the grid's side, in sixteenths of the encoder's frame."""
EPSILON: Final = 1e-5
STAYING: Final = 2.0
"""Initial logit of staying, at which `gate` is closed: untrained, no point moves."""


class PointEstimate(NamedTuple):
    """What is predicted of each prompt's click and box; meaningless for those that it lacks.

    Attributes:
        places: (B, P, PLACES · PLACES) logits of the click's move, over `offset_grid`, if it moves.
        click_stays: (B, P, 1) logit of its being right already.
        sides: (B, P, 4) moves of a box's left, top, right and bottom in pixels, if they move.
        sides_stay: (B, P, 4) logits of their being right already.
    """

    places: Tensor
    click_stays: Tensor
    sides: Tensor
    sides_stay: Tensor


def offset_grid(like: Tensor) -> Tensor:
    """Return the places of a click's distribution, (PLACES · PLACES, 2), (X, Y).

    They are relative to the click, in sixteenths of the encoder's frame.
    """
    steps = torch.linspace(-REACH, REACH, PLACES, device=like.device, dtype=like.dtype)
    columns, rows = steps.repeat(PLACES), steps.repeat_interleave(PLACES)
    return torch.stack([columns, rows], dim=-1)


def gate(stays: Tensor) -> Tensor:
    """Return the share of a move that is made, from the logit of staying.

    All of it while staying has at most 1/3 probability, nothing from 1/2 on, linear between.
    """
    share: Tensor = (3 - 6 * stays.sigmoid()).clamp(0, 1)
    return share


class GatedPointCalibration(PointCalibration):
    """Moves a prompt's box or first click where it is likely to be wrong, the form `gated`."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__(hidden_dim, click_outputs=PLACES * PLACES + 1, box_outputs=8)
        for network, stays in ((self.click, 1), (self.box, 4)):
            last = network[-1]
            assert isinstance(last, nn.Linear)
            nn.init.constant_(last.bias[-stays:], STAYING)

    def features_of(self, image_embeddings: Tensor) -> Tensor:
        """Normalise image embeddings by image and channel, and reduce them."""
        centred = image_embeddings - image_embeddings.mean((2, 3), keepdim=True)
        variance = centred.square().mean((2, 3), keepdim=True)
        return super().features_of(centred / (variance + EPSILON).sqrt())

    def estimate(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> PointEstimate:
        """Predict where points should be, and whether they are; arguments as of `forward`."""
        features = self.features_of(image_embeddings)
        places = [
            torch.where(slot, point_coords, 0.0).sum(2) for slot in of_each_kind(point_labels)
        ]
        return PointEstimate(
            *self._click(features, places[0]), *self._sides(features, places[1], places[2])
        )

    def _click(self, features: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        places, stays = self.read_click(features, place).split([PLACES * PLACES, 1], dim=-1)
        return places, stays

    def _sides(
        self, features: Tensor, top_left: Tensor, bottom_right: Tensor
    ) -> tuple[Tensor, Tensor]:
        moves, stay = self.read_box(features, top_left, bottom_right).chunk(2, -1)
        half = (bottom_right - top_left) / 2
        return moves * torch.cat([half, half], dim=-1), stay

    def _click_move(self, features: Tensor, place: Tensor) -> Tensor:
        places, stays = self._click(features, place)
        mean = places.softmax(-1) @ offset_grid(places)
        return features.shape[-1] * mean * gate(stays)

    def _box_moves(
        self, features: Tensor, top_left: Tensor, bottom_right: Tensor
    ) -> tuple[Tensor, Tensor]:
        moves, stay = self._sides(features, top_left, bottom_right)
        first, second = (moves * gate(stay)).chunk(2, -1)
        return first, second
