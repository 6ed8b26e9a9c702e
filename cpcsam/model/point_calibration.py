"""Point calibration: moves clicks and box corners to where an accurate annotator puts them.

A positional encoding is made of sines, so reweighting an embedding can hardly move its point.
The embeddings around the point locate its entity: box corners move to those of its tight box,
and without a box the first click moves to the entity's centre. Further clicks stay, as they mark
where a mask was wrong.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpcsam.contract import EMBED_DIM, PATCH_SIZE, PointLabel

__all__ = [
    "PointCalibration",
    "is_moved",
    "of_each_kind",
    "phase",
    "sample_embeddings",
    "sample_windows",
    "start_at_zero",
]


def start_at_zero(network: nn.Sequential) -> None:
    """Zero-initialise the last layer, in place: the output is zero until it is trained."""
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)


WINDOW = 5
"""Samples a side of the window that a move is predicted from."""
CHANNELS = 32
"""Channels of the reduced image embedding."""
CLICK_REACH = 1.5
"""Half the side of a click's window, in sixteenths of the encoder's frame."""
BOX_REACH = 1.5
"""Half the sides of a box's window in half box sides."""

MOVED = (PointLabel.FOREGROUND, PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT)


def _tents(positions: Tensor, side: int) -> Tensor:
    """Weights of `side` cells in linear interpolation at pixels, (..., side)."""
    # Both pixels and cells have their centres half a unit from their index.
    cell = ((positions + 0.5) / PATCH_SIZE - 0.5).clamp(0, side - 1)
    centres = torch.arange(side, device=cell.device, dtype=cell.dtype)
    return (1 - (cell.unsqueeze(-1) - centres).abs()).clamp(min=0)


def sample_embeddings(image_embeddings: Tensor, point_coords: Tensor) -> Tensor:
    """Sample image embeddings bilinearly at points, e(x) of the task module.

    Points beyond the outermost cell centres take the border's value. The tent-function weights
    make this one matrix product, which exports to plain operators and differentiates twice.

    Args:
        image_embeddings: (B, C, G, G) float.
        point_coords: (B, P, N, 2) float, pixels of the encoder's frame, (X, Y).

    Returns:
        (B, P, N, C) float.
    """
    batch, prompts, points, _ = point_coords.shape
    side = image_embeddings.shape[-1]
    weight_x, weight_y = _tents(point_coords, side).unbind(-2)
    weights = weight_y.unsqueeze(-1) * weight_x.unsqueeze(-2)
    flat = weights.reshape(batch, prompts * points, side * side).to(image_embeddings.dtype)
    # (B, P · N, G · G) @ (B, G · G, C)
    sampled = flat @ image_embeddings.flatten(2).transpose(1, 2)
    return sampled.reshape(batch, prompts, points, -1)


def sample_windows(image_embeddings: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
    """Sample windows of `WINDOW` by `WINDOW` points, separably by axis.

    Args:
        image_embeddings: (B, C, G, G) float.
        centre: (B, P, 2) float, pixels of the encoder's frame, (X, Y).
        reach: (B, P, 2) float, half the window's sides.

    Returns:
        (B, P, WINDOW · WINDOW · C) float.
    """
    batch, prompts, _ = centre.shape
    side = image_embeddings.shape[-1]
    steps = torch.linspace(-1, 1, WINDOW, device=centre.device, dtype=centre.dtype)
    places = centre.unsqueeze(-1) + reach.unsqueeze(-1) * steps
    columns, rows = _tents(places, side).to(image_embeddings.dtype).unbind(2)
    # (B, G, G · C): a row of cells is one vector
    lines = image_embeddings.permute(0, 2, 3, 1).flatten(2)
    cut = rows.reshape(batch, prompts * WINDOW, side) @ lines
    cut = cut.reshape(batch, prompts, WINDOW, side, -1)
    # (B, P, 1, WINDOW, G) @ (B, P, WINDOW, G, C)
    return (columns.unsqueeze(2) @ cut).flatten(2)


def is_moved(point_labels: Tensor) -> Tensor:
    """Return which of (B, P, N) slots move: box corners, and a first click without a box."""
    corner = point_labels >= PointLabel.BOX_TOP_LEFT
    click = (point_labels == PointLabel.FOREGROUND) & ~corner.any(-1, keepdim=True)
    first, later = corner.split([1, corner.shape[-1] - 1], dim=-1)
    return torch.cat([first | click[..., :1], later], dim=-1)


def of_each_kind(point_labels: Tensor) -> list[Tensor]:
    """Return the moved slots of each kind of `MOVED`, three (B, P, N, 1) bool.

    A prompt has at most one such slot of a kind, so a sum over slots selects it.
    """
    moved = is_moved(point_labels)
    return [(moved & (point_labels == label)).unsqueeze(-1) for label in MOVED]


class PointCalibration(nn.Module):
    """Moves a prompt's box or first click, by MLPs on the embeddings around them.

    The last layers are zero-initialised: untrained it moves nothing. This is the form `offset`,
    which moves accurate points as well.
    """

    def __init__(self, hidden_dim: int, click_outputs: int = 2, box_outputs: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(EMBED_DIM, CHANNELS, 1)
        features = CHANNELS * WINDOW * WINDOW
        self.click = self._network(features + 4, hidden_dim, click_outputs)
        self.box = self._network(features + 6, hidden_dim, box_outputs)

    @staticmethod
    def _network(inputs: int, hidden_dim: int, outputs: int) -> nn.Sequential:
        last = nn.Linear(hidden_dim, outputs)
        network = nn.Sequential(nn.Linear(inputs, hidden_dim), nn.GELU(), last)
        start_at_zero(network)
        return network

    def forward(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> Tensor:
        """Return the calibrated points.

        Args:
            image_embeddings: (B, 256, G, G).
            point_coords: (B, P, N, 2) float32, finite, pixels of the encoder's frame, (X, Y).
            point_labels: (B, P, N) int32, `PointLabel`.

        Returns:
            (B, P, N, 2) float32; the slots of `is_moved` are moved.
        """
        features = self.features_of(image_embeddings)
        slots = of_each_kind(point_labels)
        click, *corners = (torch.where(slot, point_coords, 0.0).sum(2) for slot in slots)
        moves = self._click_move(features, click), *self._box_moves(features, *corners)
        for slot, move in zip(slots, moves, strict=True):
            point_coords = torch.where(slot, point_coords + move.unsqueeze(2), point_coords)
        return point_coords

    def features_of(self, image_embeddings: Tensor) -> Tensor:
        """Reduce image embeddings to (B, CHANNELS, G, G)."""
        return nn.functional.gelu(self.reduce(image_embeddings))

    def read_click(self, features: Tensor, place: Tensor) -> Tensor:
        """Read the window around clicks, (B, P, 2); return the network's outputs."""
        # In pixels, a sixteenth of the frame.
        unit = features.shape[-1]
        reach = torch.full_like(place, CLICK_REACH * unit)
        return self._read(self.click, features, place, reach, phase(place))

    def read_box(self, features: Tensor, top_left: Tensor, bottom_right: Tensor) -> Tensor:
        """Read the window of boxes, given by two corners (B, P, 2); return the outputs."""
        centre, half = (top_left + bottom_right) / 2, (bottom_right - top_left) / 2
        geometry = torch.cat([phase(centre), half / features.shape[-1]], dim=-1)
        return self._read(self.box, features, centre, BOX_REACH * half, geometry)

    def _click_move(self, features: Tensor, place: Tensor) -> Tensor:
        return features.shape[-1] * self.read_click(features, place)

    def _box_moves(
        self, features: Tensor, top_left: Tensor, bottom_right: Tensor
    ) -> tuple[Tensor, Tensor]:
        half = (bottom_right - top_left) / 2
        first, second = self.read_box(features, top_left, bottom_right).chunk(2, -1)
        return half * first, half * second

    def _read(
        self,
        network: nn.Sequential,
        features: Tensor,
        centre: Tensor,
        reach: Tensor,
        geometry: Tensor,
    ) -> Tensor:
        window = sample_windows(features, centre, reach)
        out: Tensor = network(torch.cat([window, geometry.to(window.dtype)], dim=-1))
        # Coordinates stay float32 even if the embeddings have less precision.
        return out.to(centre.dtype)


def phase(place: Tensor) -> Tensor:
    """Return the phase of points, (B, P, 2), within their cells as sine and cosine, (B, P, 4)."""
    angle = place * (2 * math.pi / PATCH_SIZE)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
