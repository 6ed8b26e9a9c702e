"""Stage `training`: a bi-level step of vit_b at 1024 pixels, unrolled against first order.

Weights are random, LoRA and CaPL as configured by default. A batch repeats one synthetic scene and
lies on the device already, as drawing one would take longer than the step. Images are counted in
both half-batches. The precision is that of `precision: auto`: mixed bfloat16 where the device has
it. `first_order folded` trains with the relative positions folded into a fused attention, which has
no second derivative.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from benchmarks.gpu.attempts import GIB, attempt
from benchmarks.gpu.attention_forms import use_form
from benchmarks.gpu.models import FULL, QUICK, random_model
from benchmarks.gpu.stage import StageContext
from cpcsam.model.sam import CpcSam
from cpcsam.scale import Scale
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.forward import enable_gradient_checkpointing
from training.bilevel.step import BilevelConfig
from training.bilevel.train_state import BilevelState, new_bilevel_state
from training.data.batches import BatchConfig, StepBatches
from training.data.prompt_batch import Halves, PromptBatch
from training.data.synthetic import synthetic_scene
from training.loop.precision import is_mixed

__all__ = ["Variant", "measure", "repeated"]

MIN_LEFT_S: Final = 15.0
LR: Final = 1e-4
SCENE_SIDE: Final = 512
UNROLL_STEPS: Final[Literal[1]] = 1

Record = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes:
        name: of its records.
        unroll_steps: steps of θ that the gradient of φ runs through.
        form: of the encoder's attention, a key of `FORMS`.
        gradient_checkpointing: recompute the encoder's blocks in the backward pass.
    """

    name: str
    unroll_steps: Literal[0, 1] = 0
    form: str = "official"
    gradient_checkpointing: bool = False


FIRST_ORDER: Final = Variant("first_order")
UNROLLED: Final = Variant("unrolled", unroll_steps=UNROLL_STEPS)
FOLDED: Final = Variant("first_order folded", form="folded_padded")
CHECKPOINTED: Final = Variant("first_order checkpointed", gradient_checkpointing=True)
PLAN: Final = (
    (FIRST_ORDER, 1),
    (UNROLLED, 1),
    (FOLDED, 1),
    (FIRST_ORDER, 2),
    (UNROLLED, 2),
    (FOLDED, 4),
    (CHECKPOINTED, 4),
    (FIRST_ORDER, 4),
    (UNROLLED, 4),
)
"""Variants and images of a half-batch, the most informative first."""
QUICK_PLAN: Final = ((FIRST_ORDER, 1), (UNROLLED, 1), (FOLDED, 1), (CHECKPOINTED, 1))


def measure(context: StageContext) -> Iterator[Record]:
    """Measure each variant at each size of the batch; one that does not fit is a record."""
    mixed = is_mixed("auto", context.device)
    base = random_model(QUICK if context.quick else FULL)
    halves = _halves(context, base.image_size)
    for variant, images in QUICK_PLAN if context.quick else PLAN:
        record = {
            "case": f"{variant.name} x {images}",
            "variant": variant.name,
            "half_batch": images,
            "precision": "bfloat16 mixed" if mixed else "float32",
        }
        if not context.quick and context.left_s() < MIN_LEFT_S:
            yield {**record, "skipped": f"{context.left_s():.0f} s left"}
            continue
        yield attempt(record, partial(_figures, context, base, variant, halves, images))


def _figures(
    context: StageContext, base: CpcSam, variant: Variant, pair: Halves, images: int
) -> Record:
    state = _state(context, base, variant)
    halves = Halves(repeated(pair.training, images), repeated(pair.held_out, images))
    halves = halves.to(context.device)
    bilevel = BilevelConfig(unroll_steps=variant.unroll_steps, unroll_lr=LR)
    losses: list[dict[str, float]] = []

    def step() -> None:
        losses.append(state.train_step(halves, bilevel))

    peak = context.peak_memory(step)
    seconds = context.seconds(step, warmup=1, repeats=1 if context.quick else 5)
    return {
        "step_ms": 1000 * seconds,
        "images_per_s": 2 * images / seconds,
        "peak_gib": None if peak is None else peak / GIB,
        "steps": state.step,
        "first_sam_loss": losses[0]["sam_total"],
        "last_sam_loss": losses[-1]["sam_total"],
        "last_capl_loss": losses[-1]["capl_total"],
    }


def _state(context: StageContext, base: CpcSam, variant: Variant) -> BilevelState:
    model = copy.deepcopy(base)
    model.sam.image_encoder = use_form(model.sam.image_encoder, variant.form)
    if variant.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return new_bilevel_state(
        model,
        ModelConfig(),
        OptimizerConfig(lr=LR, lr_capl=LR, lr_points=LR),
        seed=0,
        bf16=is_mixed("auto", context.device),
        device=context.device,
    )


def _halves(context: StageContext, image_size: int) -> Halves:
    """Draw half-batches of one image, on the CPU."""
    config = BatchConfig(images=1)
    if context.quick:
        config = BatchConfig(images=1, entities=1, groups=2, practice=4)
    samples = [synthetic_scene(seed, SCENE_SIDE) for seed in range(2)]
    return StepBatches(samples, image_size, config, Scale(None, 1.25), seed=0, steps=1)[0]


def repeated(batch: PromptBatch, images: int) -> PromptBatch:
    """Repeat a batch of one image."""
    columns = {name: column for name, column in vars(batch).items() if column is not None}
    return PromptBatch(
        **{name: column.repeat_interleave(images, dim=0) for name, column in columns.items()}
    )
