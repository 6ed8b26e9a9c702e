"""AdamW without decay of vectors, gradient clipping, and warm-up with cosine decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from cpcsam.errors import TrainingError
from training.loop.distributed import all_reduce_mean

__all__ = ["LossTerms", "ParameterGroup", "adamw", "set_lr", "warmup_cosine"]

T = TypeVar("T")


class LossTerms(Protocol):
    """A dataclass of scalar tensors: the terms of a loss, and their weighted sum."""

    @property
    def total(self) -> Tensor:
        """The value to minimise."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters by name, with the optimiser that updates them."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip_norm: float

    def descend(
        self, objective: Callable[[T], LossTerms], microbatches: Sequence[T], name: str
    ) -> dict[str, float]:
        """Take one optimiser step on an objective's mean over microbatches and processes.

        Args:
            objective: loss of a microbatch, with its terms.
            microbatches: this process's share of a batch, in pieces of equally many images.
            name: of the loss, for errors.

        Returns:
            The means of the terms by name, and `gradient`, its norm before clipping.

        Raises:
            TrainingError: loss or gradient is not finite; nothing was updated.
        """
        parameters = list(self.parameters.values())
        means: list[Tensor] = []
        names: list[str] = []
        for microbatch in microbatches:
            terms = vars(objective(microbatch))
            names = list(terms)
            # materialize_grads: a microbatch may leave parameters unused, as of mask prompts.
            gradients = torch.autograd.grad(terms["total"], parameters, materialize_grads=True)
            # The terms travel with the gradients, in the same all-reduce.
            values = *gradients, torch.stack([term.detach() for term in terms.values()])
            shares = [value / len(microbatches) for value in values]
            means = list(map(torch.add, means, shares)) if means else shares
        all_reduce_mean(means)
        *mean_gradients, mean_terms = means
        metrics = dict(zip(names, mean_terms.tolist(), strict=True))
        # Of the mean gradients, so that every process clips, or refuses, alike.
        norm = float(torch.stack([gradient.norm() for gradient in mean_gradients]).norm())
        if not (math.isfinite(metrics["total"]) and math.isfinite(norm)):
            raise TrainingError.of(
                f"{name} loss",
                got=f"{metrics['total']} with a gradient of norm {norm}",
                expected="finite numbers",
                fix="lower optimizer.lr, lr_capl or lr_points, or use precision=float32",
            )
        scale = min(1.0, self.clip_norm / max(norm, 1e-12))
        for parameter, gradient in zip(parameters, mean_gradients, strict=True):
            parameter.grad = gradient * scale
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**metrics, "gradient": norm}


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    decay_vectors: bool = False,
) -> torch.optim.AdamW:
    """Build AdamW, by default with weight decay of matrices alone: not of biases and norms.

    Args:
        parameters: to update; vectors are those of at most one dimension.
        lr: learning rate, until `set_lr` changes it.
        betas: decay rates of the moving averages of gradients and their squares.
        weight_decay: decoupled from the gradient.
        decay_vectors: apply it to vectors too.
    """
    listed = list(parameters)
    groups = [
        {"params": [p for p in listed if p.ndim > 1], "weight_decay": weight_decay},
        {
            "params": [p for p in listed if p.ndim <= 1],
            "weight_decay": weight_decay if decay_vectors else 0.0,
        },
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups of an optimiser."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def warmup_cosine(
    position: float, warmup: float, total: float = 1.0, *, peak: float = 1.0, final: float = 0.0
) -> float:
    """Return a learning rate of a linear warm-up followed by half a cosine.

    Args:
        position: how far training is, from 0 to `total`.
        warmup: position at which the peak is reached.
        total: position of the end.
        peak: learning rate after the warm-up.
        final: share of the peak that the cosine ends at.
    """
    if position < warmup:
        return peak * position / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (position - warmup) / (total - warmup)))
    return peak * (final + (1 - final) * cosine)
