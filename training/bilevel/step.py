"""Bi-level optimisation of CaPL (φ) and SAM (θ), Eq. 4.

    min_φ  L_task(φ, θ*(φ)) + β · L_entity(φ, θ*(φ))   subject to   θ*(φ) = argmin_θ L_sam(θ, φ)

A step updates φ on the held-out half-batch, through `unroll_steps` differentiable SGD steps of θ
on the training half-batch (0 takes θ*(φ) as constant in φ: first order), and updates θ on the
training half-batch with φ frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cpcsam.checks import require_range
from cpcsam.model.decoder import DecoderTrace
from cpcsam.model.sam import CpcSam
from training.bilevel.losses import (
    CaplTerms,
    LossConfig,
    PointTerms,
    SamTerms,
    capl_terms,
    point_terms,
    sam_terms,
)
from training.bilevel.optimizer import Group
from training.data.batches import Halves, PromptBatch

__all__ = [
    "BilevelConfig",
    "Forward",
    "Predictions",
    "bilevel_step",
    "capl_objective",
    "frozen",
    "point_objective",
    "sam_objective",
    "unroll",
]


@dataclass(frozen=True)
class BilevelConfig:
    """How φ and θ take turns; the paper's four strategies are order × capl_steps × unroll_steps.

    Attributes:
        order: which is updated first in a step.
        capl_steps: updates of φ a step.
        capl_every: φ is updated at the first of every so many steps: θ takes as many steps a round.
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
        """Refuse what would never update φ or unroll nothing."""
        require_range("bilevel.capl_every", self.capl_every, 1)
        require_range("bilevel.unroll_lr", self.unroll_lr, 0, above=True)


@dataclass(frozen=True)
class Predictions:
    """What the objectives read.

    Attributes:
        low_res_masks: (B, P, 4, 4G, 4G) logits.
        iou_predictions: (B, P, 4).
        token_mask: (B, P, N+1).
        image_embeddings: (B, 256, G, G).
        trace: attention maps and calibrations of the same pass.
    """

    low_res_masks: Tensor
    iou_predictions: Tensor
    token_mask: Tensor
    image_embeddings: Tensor
    trace: DecoderTrace


class Forward(nn.Module):
    """One pass over a half-batch as a module, so that its parameters can be substituted.

    With `bf16` the pass runs in mixed precision; parameters and losses stay in float32.
    """

    def __init__(self, model: CpcSam, *, bf16: bool = False) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16

    def forward(self, batch: PromptBatch) -> Predictions:
        """Encode the windows and decode every prompt."""
        trace = DecoderTrace()
        with self._precision(batch.image.device):
            embeddings = self._encode(batch)
            with torch.no_grad():
                places = self.model.calibrate_points(
                    embeddings, batch.point_coords, batch.point_labels
                )
            sparse, token_mask = self.model.encode_points(embeddings, places, batch.point_labels)
            dense = self._dense(batch)
            masks, iou = self.model.decode_masks(embeddings, sparse, token_mask, dense, trace)
        return Predictions(masks, iou, token_mask, embeddings, trace)

    @torch.no_grad()
    def embed(self, batch: PromptBatch) -> Tensor:
        """Encode the windows, (B, 256, G, G)."""
        with self._precision(batch.image.device):
            return self._encode(batch)

    def move_points(self, image_embeddings: Tensor, coords: Tensor, labels: Tensor) -> Tensor:
        """As `CpcSam.calibrate_points`."""
        with self._precision(image_embeddings.device):
            return self.model.calibrate_points(image_embeddings, coords, labels)

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def _encode(self, batch: PromptBatch) -> Tensor:
        size, device = batch.image.shape[-1], batch.image.device
        input_size = torch.full((len(batch.image), 2), size, dtype=torch.int32, device=device)
        return self.model.encode_image(batch.image, input_size)

    def _dense(self, batch: PromptBatch) -> Tensor | None:
        """Dense embeddings, SAM's "no mask" where a prompt has none; None without coarse masks."""
        if batch.mask_input is None or batch.has_mask is None:
            return None
        dtype = self.model.sam.pixel_mean.dtype
        drawn = self.model.encode_masks(batch.mask_input.to(dtype))
        return torch.where(
            batch.has_mask[:, :, None, None, None], drawn, self.model.no_mask_embedding()
        )

    def with_parameters(self, parameters: Mapping[str, Tensor], batch: PromptBatch) -> Predictions:
        """The same pass with some of the model's parameters, keyed by name, replaced."""
        if not parameters:
            return self(batch)  # type: ignore[no-any-return]
        replaced = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(self, replaced, (batch,))  # type: ignore[no-any-return]


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep parameters out of the graph, which also spares their part of the backward pass."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def sam_objective(predictions: Predictions, batch: PromptBatch, losses: LossConfig) -> SamTerms:
    """Eq. 3 of one pass."""
    return sam_terms(
        predictions.low_res_masks, predictions.iou_predictions, batch.prompt_masks(), losses
    )


def capl_objective(predictions: Predictions, batch: PromptBatch, losses: LossConfig) -> CaplTerms:
    """Eq. 4's outer objective of one pass."""
    return capl_terms(
        predictions.low_res_masks,
        predictions.trace,
        predictions.token_mask,
        batch.prompt_masks(),
        losses,
    )


def point_objective(forward: Forward, image_embeddings: Tensor, batch: PromptBatch) -> PointTerms:
    """How far the practice prompts' points are from where they should be."""
    coords, labels, accurate_coords = batch.practice()
    moved = forward.move_points(image_embeddings, coords, labels)
    return point_terms(moved, labels, accurate_coords)


def unroll(
    forward: Forward,
    theta: Mapping[str, Tensor],
    training: PromptBatch,
    config: BilevelConfig,
) -> dict[str, Tensor]:
    """θ*(φ): SGD steps of θ on the training half, kept differentiable in φ.

    Args:
        forward: the model.
        theta: θ by name, requiring gradients.
        training: the half-batch that θ learns from.
        config: `unroll_steps` of length `unroll_lr`.

    Returns:
        The adapted θ by name; empty with no steps, which stands for θ as it is.
    """
    adapted: dict[str, Tensor] = {}
    for _ in range(config.unroll_steps):
        current = adapted or dict(theta)
        predictions = forward.with_parameters(current, training)
        loss = sam_objective(predictions, training, config.losses).total
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
    theta: Group,
    phi: Group,
    points: Group,
    halves: Halves,
    config: BilevelConfig,
    accumulate: int = 1,
    step: int = 0,
) -> dict[str, float]:
    """Update φ and θ in the configured order: θ once, φ `capl_steps` times or not at all.

    What moves points is told where they should be, so it needs no held-out half: it learns after θ
    from the embeddings of θ's own pass.

    An empty group is left out, which gives plain fine-tuning or CaPL alone.

    Args:
        forward: the model.
        theta: what the training half updates.
        phi: what the held-out half updates.
        points: what moves points; the training half needs practice prompts for it.
        halves: this process's share of the batch.
        config: how the two take turns.
        accumulate: chunks that a half is computed in, one after the other; 1 with unrolling.
        step: steps done, which decides with `capl_every` whether φ is updated.

    Returns:
        The terms of the losses of what was updated and the gradients' norms, by name.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    figures: dict[str, float] = {}
    losses = config.losses
    training = halves.training.chunks(accumulate)
    embeddings: list[Tensor] = []

    def update_capl() -> None:
        adapted = unroll(forward, theta.parameters, halves.training, config)
        with frozen(theta.parameters.values()):
            terms = phi.apply(
                lambda part: capl_objective(forward.with_parameters(adapted, part), part, losses),
                halves.held_out.chunks(accumulate),
                "CaPL",
            )
        figures.update({f"capl_{name}": value for name, value in terms.items()})

    def update_sam() -> None:
        def objective(part: PromptBatch) -> SamTerms:
            predictions = forward(part)
            embeddings.append(predictions.image_embeddings.detach())
            return sam_objective(predictions, part, losses)

        with frozen(phi.parameters.values()):
            terms = theta.apply(objective, training, "SAM")
        figures.update({f"sam_{name}": value for name, value in terms.items()})

    def update_points() -> None:
        seen = embeddings or [forward.embed(part) for part in training]
        terms = points.apply(
            lambda pair: point_objective(forward, *pair),
            list(zip(seen, training, strict=True)),
            "points",
        )
        figures.update({f"points_{name}": value for name, value in terms.items()})

    due = bool(phi.parameters) and step % config.capl_every == 0
    capl = [update_capl] * (config.capl_steps if due else 0)
    sam = [update_sam] if theta.parameters else []
    for update in [*capl, *sam] if config.order == "capl_first" else [*sam, *capl]:
        update()
    if points.parameters:
        update_points()
    return figures
