"""Batches of prompted windows, as the train step reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cpcsam.errors import ConfigError

__all__ = ["PRACTICE", "Halves", "PromptBatch"]

PRACTICE = ("practice_coords", "practice_labels", "accurate_coords")
"""Columns of a `PromptBatch` that supervise point calibration."""


@dataclass(frozen=True)
class PromptBatch:
    """B windows with P = entities · groups prompts each; the groups of an entity are adjacent.

    Attributes:
        image: (B, 3, S, S) uint8.
        masks: (B, entities, S, S) bool.
        point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
        point_labels: (B, P, N) int32, `PointLabel`.
        mask_input: (B, P, 1, 4G, 4G) float32 logits of coarse masks; None if no annotator draws
            any.
        has_mask: (B, P) bool, True for prompts with a coarse mask; None likewise.
        practice_coords: (B, Q, N, 2) float32, points to calibrate; None without practice.
        practice_labels: (B, Q, N) int32; None likewise.
        accurate_coords: (B, Q, N, 2) float32, their targets; None likewise.
    """

    image: Tensor
    masks: Tensor
    point_coords: Tensor
    point_labels: Tensor
    mask_input: Tensor | None = None
    has_mask: Tensor | None = None
    practice_coords: Tensor | None = None
    practice_labels: Tensor | None = None
    accurate_coords: Tensor | None = None

    def prompt_masks(self) -> Tensor:
        """Return the entity of each prompt, (B, P, S, S) bool."""
        groups = self.point_labels.shape[1] // self.masks.shape[1]
        return self.masks.repeat_interleave(groups, dim=1)

    def practice(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return coordinates, labels and accurate coordinates of the practice prompts.

        Raises:
            ConfigError: the batch has none.
        """
        coords, labels, accurate = (getattr(self, name) for name in PRACTICE)
        if coords is None:
            raise ConfigError.of(
                "batch.practice",
                got=0,
                expected="1 or more with CaPL that moves points",
                fix="set batch.practice, or model.capl.moves_points=false",
            )
        return coords, labels, accurate

    def to(self, device: torch.device) -> PromptBatch:
        """Move the batch to a device."""
        columns: Iterator[Any] = (
            None if column is None else column.to(device) for column in vars(self).values()
        )
        return PromptBatch(*columns)

    def microbatches(self, count: int) -> list[PromptBatch]:
        """Split into `count` batches of equally many windows; B must be a multiple of it."""
        columns: Iterator[Sequence[Any]] = (
            [None] * count if column is None else column.unflatten(0, (count, -1)).unbind()
            for column in vars(self).values()
        )
        return [PromptBatch(*row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Halves:
    """The two half-batches of a bi-level step: θ is trained on `training`, φ on `held_out`."""

    training: PromptBatch
    held_out: PromptBatch

    def to(self, device: torch.device) -> Halves:
        """Move both halves to a device."""
        return Halves(self.training.to(device), self.held_out.to(device))
