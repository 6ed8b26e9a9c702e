"""Bi-level optimisation of CaPL (φ) and SAM (θ), Eq. 4.

    min_φ  L_task(φ, θ*(φ)) + β · L_entity(φ, θ*(φ))   subject to   θ*(φ) = argmin_θ L_sam(θ, φ)

A step updates φ on the held-out half-batch, through `unroll_steps` differentiable SGD steps of θ
on the training half-batch (0 takes θ*(φ) as constant in φ: first order), and updates θ on the
training half-batch with φ frozen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor, nn

from cpcsam.checks import require_range
from training.bilevel.forward import Forward, Predictions
from training.bilevel.losses import (
    CaplTerms,
    LossConfig,
    SamTerms,
    capl_terms,
    sam_terms,
)
from training.bilevel.point_losses import PointTerms
from training.data.prompt_batch import Halves, PromptBatch
from training.loop.optimizer import ParameterGroup

__all__ = [
    "UPDATE_EVENT",
    "BilevelConfig",
    "bilevel_step",
    "capl_objective",
    "frozen",
    "point_objective",
    "sam_objective",
    "unroll",
]

UPDATE_EVENT: Final = "cpcsam.bilevel_update"


@dataclass(frozen=True)
class BilevelConfig:
    """Alternation of φ and θ; the paper's four strategies are order × capl_steps × unroll_steps.

    Attributes:
        order: which of φ and θ is updated first in a step.
        capl_steps: updates of φ a step.
        capl_every: steps of θ in a round; φ is updated at the first step of each.
        unroll_steps: SGD steps of θ that φ's gradient runs through; 0 is first order.
        unroll_lr: learning rate of those steps.
        losses: weights of the objectives.
    """

    order: Literal["capl_first", "sam_first"] = "capl_first"
    capl_steps: Literal[1, 5] = 1
    capl_every: int = 1
    unroll_steps: Literal[0, 1, 5] = 0
    unroll_lr: float = 1e-2
    losses: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        """Refuse a φ that is never updated and an unrolling of length 0."""
        require_range("bilevel.capl_every", self.capl_every, 1)
        require_range("bilevel.unroll_lr", self.unroll_lr, 0, above=True)

    @property
    def changed_for_phi(self) -> tuple[str, ...]:
        """The keys that differ from their defaults and mean nothing without φ."""
        alternation = ("order", "capl_steps", "capl_every", "unroll_steps", "unroll_lr")
        return (
            *(f"bilevel.{name}" for name in _changed(self, alternation)),
            *(f"bilevel.losses.{name}" for name in _changed(self.losses, ("beta", "sparsity"))),
        )


def _changed(config: BilevelConfig | LossConfig, names: Iterable[str]) -> list[str]:
    return [name for name in names if getattr(config, name) != getattr(type(config), name)]


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep parameters out of the autograd graph, which also saves their backward pass."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def sam_objective(predictions: Predictions, batch: PromptBatch, losses: LossConfig) -> SamTerms:
    """Compute Eq. 3 of a pass."""
    return sam_terms(
        predictions.low_res_masks, predictions.iou_predictions, batch.prompt_masks(), losses
    )


def capl_objective(predictions: Predictions, batch: PromptBatch, losses: LossConfig) -> CaplTerms:
    """Compute Eq. 4's outer objective of a pass."""
    return capl_terms(
        predictions.low_res_masks,
        predictions.trace,
        predictions.token_mask,
        batch.prompt_masks(),
        losses,
    )


def point_objective(forward: Forward, image_embeddings: Tensor, batch: PromptBatch) -> PointTerms:
    """Compute how far calibrated practice points are from the accurate ones."""
    return forward.practise(image_embeddings, *batch.practice())


def unroll(
    forward: Forward,
    theta: Mapping[str, Tensor],
    training: PromptBatch,
    config: BilevelConfig,
) -> dict[str, Tensor]:
    """Unroll SGD steps of θ on the training half, differentiable in φ: θ*(φ).

    Args:
        forward: the model.
        theta: θ by name, requiring gradients.
        training: the half-batch that θ is trained on.
        config: `unroll_steps` of length `unroll_lr`.

    Returns:
        The adapted θ by name; empty with no steps, which stands for θ as it is.
    """
    adapted: dict[str, Tensor] = {}
    for _ in range(config.unroll_steps):
        current = adapted or dict(theta)
        predictions = forward.with_parameters(current, training)
        loss = sam_objective(predictions, training, config.losses).total
        # create_graph keeps ∂θ*/∂φ; weights that this batch leaves unused get zeros.
        gradients = torch.autograd.grad(
            loss, list(current.values()), create_graph=True, materialize_grads=True
        )
        adapted = {
            name: value - config.unroll_lr * gradient
            for (name, value), gradient in zip(current.items(), gradients, strict=True)
        }
    return adapted


def bilevel_step(
    forward: Forward,
    theta: ParameterGroup,
    phi: ParameterGroup,
    points: ParameterGroup,
    halves: Halves,
    config: BilevelConfig,
    accumulate: int = 1,
    step: int = 0,
) -> dict[str, float]:
    """Update φ and θ in the configured order: θ once, φ `capl_steps` times or not at all.

    Point calibration is supervised by accurate points, so it needs no held-out half: it is updated
    after θ, on the embeddings of θ's own pass.

    An empty group is left out, which gives plain fine-tuning or CaPL alone. Every update is
    announced by the audit event `UPDATE_EVENT` with its name and `step`.

    Args:
        forward: the model.
        theta: parameters trained on the training half.
        phi: parameters trained on the held-out half.
        points: point calibration; the training half needs practice prompts for it.
        halves: this process's share of the batch.
        config: alternation of the two.
        accumulate: microbatches that a half is split into; 1 with unrolling.
        step: steps done, which decides with `capl_every` whether φ is updated.

    Returns:
        Loss terms and gradient norms of the updated groups, by name.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    metrics: dict[str, float] = {}
    losses = config.losses
    training = halves.training.microbatches(accumulate)
    embeddings: list[Tensor] = []

    def update_capl() -> None:
        adapted = unroll(forward, theta.parameters, halves.training, config)
        # Frozen only after unrolling, which differentiates by θ.
        with frozen(theta.parameters.values()):
            terms = phi.descend(
                lambda batch: capl_objective(
                    forward.with_parameters(adapted, batch), batch, losses
                ),
                halves.held_out.microbatches(accumulate),
                "CaPL",
            )
        metrics.update({f"capl_{name}": value for name, value in terms.items()})

    def update_sam() -> None:
        def objective(batch: PromptBatch) -> SamTerms:
            predictions = forward(batch)
            # Kept for `update_points`, which would otherwise encode the same windows again.
            embeddings.append(predictions.image_embeddings.detach())
            return sam_objective(predictions, batch, losses)

        with frozen(phi.parameters.values()):
            terms = theta.descend(objective, training, "SAM")
        metrics.update({f"sam_{name}": value for name, value in terms.items()})

    def update_points() -> None:
        # Without θ there was no forward pass to take embeddings from.
        encoded = embeddings or [forward.embed(batch) for batch in training]
        terms = points.descend(
            lambda pair: point_objective(forward, *pair),
            list(zip(encoded, training, strict=True)),
            "points",
        )
        metrics.update({f"points_{name}": value for name, value in terms.items()})

    due = bool(phi.parameters) and step % config.capl_every == 0
    capl = [update_capl] * (config.capl_steps if due else 0)
    sam = [update_sam] if theta.parameters else []
    updates = [*capl, *sam] if config.order == "capl_first" else [*sam, *capl]
    if points.parameters:
        updates.append(update_points)
    for update in updates:
        sys.audit(UPDATE_EVENT, update.__name__, step)
        update()
    return metrics
