"""Optimiser configuration of a bi-level run: AdamW for θ, φ and point calibration."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cpcsam.checks import require_range
from training.loop.optimizer import ParameterGroup, adamw, warmup_cosine

__all__ = ["OptimizerConfig"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for θ, for φ and for point calibration, and their common schedule.

    Weight decay is decoupled: inside the gradient a decay of 0.1 would drown the losses' own,
    which are means of small numbers.

    Attributes:
        lr: peak learning rate of θ.
        lr_capl: peak learning rate of φ.
        lr_points: peak learning rate of point calibration, the supervised part of φ.
        betas: decay rates of Adam's moving averages.
        weight_decay: of matrices; biases and norms are not decayed.
        warmup: share of the run during which the learning rates rise.
        final: share of the peak that the cosine ends at.
        clip_norm: largest norm of a group's gradient.
    """

    lr: float = 5e-3
    lr_capl: float = 5e-3
    lr_points: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.1
    warmup: float = 0.05
    final: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse rates that cannot train."""
        for name in ("lr", "lr_capl", "lr_points", "clip_norm"):
            require_range(f"optimizer.{name}", getattr(self, name), 0, above=True)
        for name in ("warmup", "final"):
            require_range(f"optimizer.{name}", getattr(self, name), 0, 1, below=True)
        require_range("optimizer.weight_decay", self.weight_decay, 0)

    def lr_factor(self, progress: float) -> float:
        """Return the schedule's factor in [0, 1] at a progress in [0, 1]."""
        return warmup_cosine(progress, self.warmup, final=self.final)

    def group(self, parameters: dict[str, nn.Parameter], lr: float) -> ParameterGroup:
        """Give parameters, by name, an AdamW of this configuration.

        Args:
            parameters: to update.
            lr: their peak learning rate.
        """
        optimizer = adamw(
            parameters.values(), lr=lr, betas=self.betas, weight_decay=self.weight_decay
        )
        return ParameterGroup(parameters, optimizer, self.clip_norm)
