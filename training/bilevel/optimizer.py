"""How θ and φ descend: Adam, the schedule of its rates, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from cpcsam.checks import require_range
from cpcsam.errors import TrainingError
from training.bilevel.losses import CaplTerms, PointTerms, SamTerms
from training.loop.distributed import average_

__all__ = ["Group", "OptimizerConfig", "new_group", "schedule"]

T = TypeVar("T")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam for θ, for φ and for what moves points, and their common schedule.

    Weight decay is decoupled (AdamW): inside the gradient a decay of 0.1 would drown the losses'
    own, which are means of small numbers.

    Attributes:
        lr: peak learning rate of θ.
        lr_capl: peak learning rate of φ.
        lr_points: peak learning rate of point calibration, the part of φ that is told its answers.
        betas: Adam's moving averages.
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


def schedule(config: OptimizerConfig, progress: float) -> float:
    """Linear warm-up, then half a cosine from 1 to `final`.

    Args:
        config: warmup and final.
        progress: share of the run that is done, in [0, 1].
    """
    if progress < config.warmup:
        return progress / config.warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))
    return config.final + (1 - config.final) * cosine


@dataclass(frozen=True)
class Group:
    """θ or a part of φ: parameters by name with the optimiser that updates them."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip_norm: float

    def apply(
        self,
        objective: Callable[[T], SamTerms | CaplTerms | PointTerms],
        chunks: Sequence[T],
        what: str,
    ) -> dict[str, float]:
        """Take one optimiser step down an objective's mean over chunks and over processes.

        Args:
            objective: the loss of a chunk, with its terms.
            chunks: this process's share of a half-batch, in parts of as many images each.
            what: name of the loss, for errors.

        Returns:
            The means of the terms by name, and `gradient`, its norm before clipping.

        Raises:
            TrainingError: loss or gradient is not finite; nothing was updated.
        """
        parameters = list(self.parameters.values())
        means: list[Tensor] = []
        names: list[str] = []
        for chunk in chunks:
            terms = vars(objective(chunk))
            names = list(terms)
            gradients = torch.autograd.grad(terms["total"], parameters, materialize_grads=True)
            parts = *gradients, torch.stack([term.detach() for term in terms.values()])
            shares = [part / len(chunks) for part in parts]
            means = list(map(torch.add, means, shares)) if means else shares
        average_(means)
        *mean_gradients, mean_terms = means
        figures = dict(zip(names, mean_terms.tolist(), strict=True))
        norm = float(torch.stack([gradient.norm() for gradient in mean_gradients]).norm())
        if not (math.isfinite(figures["total"]) and math.isfinite(norm)):
            raise TrainingError.of(
                f"{what} loss",
                got=f"{figures['total']} with a gradient of norm {norm}",
                expected="finite numbers",
                fix="lower optimizer.lr, lr_capl or lr_points, or use precision=float32",
            )
        scale = min(1.0, self.clip_norm / max(norm, 1e-12))
        for parameter, gradient in zip(parameters, mean_gradients, strict=True):
            parameter.grad = gradient * scale
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**figures, "gradient": norm}


def new_group(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, lr: float) -> Group:
    """Give parameters an optimiser.

    Args:
        parameters: by name.
        config: its recipe.
        lr: its peak learning rate.
    """
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return Group(parameters, torch.optim.AdamW(groups, lr=lr, betas=config.betas), config.clip_norm)
