"""One run of `benchmarks.calibration`: an arm trained within a budget, and its scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.budget import Budget, Spent, train_within
from benchmarks.calibration.arms import (
    ACCURATE_STYLES,
    CAPL_LEARNING_RATE,
    NOISE,
    NOISY_STYLES,
    Arm,
)
from benchmarks.calibration.splits import Split
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.sam import CpcSam
from training.bilevel.config import OptimizerConfig
from training.bilevel.step import BilevelConfig
from training.bilevel.train_state import BilevelState, new_bilevel_state
from training.data.augment import whole_window
from training.data.batches import BatchConfig, StepBatches
from training.data.prompt_batch import Halves
from training.data.prompt_sampling import PromptMix, sample_prompt
from training.data.sample import Sample
from training.evaluation.one_click import dice_score, to_size
from training.loop.precision import is_mixed

__all__ = [
    "PromptedSample",
    "Prepared",
    "dice_by_prompts",
    "prompt_sample",
    "noisy_dice",
    "prepare",
    "run",
    "scores_of",
    "train",
]


@dataclass(frozen=True)
class PromptedSample:
    """A sample as a model sees it, and what the careless annotators prompt in it.

    Attributes:
        image: (1, 3, S, S) uint8.
        point_coords: (1, P, N, 2) float32; an entity's annotators are adjacent, in the order of
            `NOISY_STYLES`.
        point_labels: (1, P, N) int32.
        shown: (P, S, S) bool, each prompt's entity in the encoder's frame.
        truths: (P, H, W) bool, the same in the sample.
    """

    image: Tensor
    point_coords: Tensor
    point_labels: Tensor
    shown: NDArray[np.bool_]
    truths: NDArray[np.bool_]


def prompt_sample(
    sample: Sample,
    image_size: int,
    strength: float,
    styles: Sequence[PromptMix] = NOISY_STYLES,
) -> PromptedSample:
    """Prompt every entity of a sample by every annotator.

    The prompts are decided by sample, entity and annotator alone: every model gets the same.

    Args:
        sample: square.
        image_size: side S of the encoder's frame.
        strength: of the annotators' carelessness.
        styles: the annotators.
    """
    window = whole_window(sample, image_size)
    instances = window.instances.numpy()
    labels = [int(label) for label in np.unique(sample.instances) if label]
    pairs = [(label, index) for label in labels for index in range(len(styles))]
    shown = np.stack([instances == label for label, _ in pairs])
    prompts = [
        sample_prompt(
            entity,
            styles[index].scaled(strength),
            np.random.default_rng((label, index, len(sample.name), *sample.name.encode())),
        )
        for entity, (label, index) in zip(shown, pairs, strict=True)
    ]
    coords, point_labels = (
        torch.from_numpy(np.stack(column))[None] for column in zip(*prompts, strict=True)
    )
    truths = np.stack([sample.instances == label for label, _ in pairs])
    return PromptedSample(window.image[None], coords, point_labels, shown, truths)


@torch.no_grad()
def noisy_dice(
    model: CpcSam,
    samples: Sequence[Sample],
    strength: float,
    styles: Sequence[PromptMix] = NOISY_STYLES,
) -> float:
    """Mean Dice of mask 0 over all entities and annotators.

    Args:
        model: in evaluation mode.
        samples: square samples.
        strength: of the annotators' carelessness.
        styles: the annotators.
    """
    scores: list[float] = []
    for sample in samples:
        prompted = prompt_sample(sample, model.image_size, strength, styles)
        embeddings = model.encode_image(
            prompted.image, torch.full((1, 2), model.image_size, dtype=torch.int32)
        )
        low_res_masks, _ = model.decode_masks(
            embeddings,
            *model.encode_prompts(embeddings, prompted.point_coords, prompted.point_labels),
        )
        scores += scores_of(low_res_masks, prompted, model.image_size)
    return float(np.mean(scores))


def scores_of(low_res_masks: Tensor, prompted: PromptedSample, image_size: int) -> list[float]:
    """Dice of mask 0 of each prompt, in the sample.

    Args:
        low_res_masks: (1, P, 4, 4G, 4G) logits.
        prompted: what was prompted.
        image_size: side S of the encoder's frame.
    """
    masks = to_size(low_res_masks[0, :, :1], image_size, prompted.truths.shape[-1])[:, 0]
    return [dice_score(*pair) for pair in zip(masks, prompted.truths, strict=True)]


def dice_by_prompts(
    model: CpcSam, samples: Sequence[Sample], strengths: Iterable[float]
) -> dict[str, float]:
    """Score careless prompts of every strength, and `accurate`: central clicks and tight boxes."""
    careless = {str(level): noisy_dice(model, samples, level) for level in strengths}
    return {**careless, "accurate": noisy_dice(model, samples, 1.0, ACCURATE_STYLES)}


def run(
    arm: Arm,
    split: Split,
    base: Path,
    seed: int,
    budget: Budget,
    curve: int = 0,
    strengths: Sequence[float] = NOISE,
) -> dict[str, Any]:
    """Train an arm on one core and score it.

    Args:
        arm: what to train.
        split: the samples.
        base: where training starts.
        seed: of weights and batches.
        budget: of training.
        curve: how often to score base and target classes on the way (Figure 1a).
        strengths: of the careless annotators that target classes are scored with.

    Returns:
        Plain data: Dice on base and target classes with careless prompts by their strength and
        with `accurate` ones, steps, seconds, parameters and the curve.
    """
    points: list[dict[str, float]] = []

    def probe(state: BilevelState, progress: float) -> None:
        # Due whenever training enters the next of `curve` equal parts.
        if curve and (progress == 1 or len(points) <= curve * progress):
            points.append(_point(state, split, progress))

    state, spent = train(arm, split, base, seed, budget, probe)
    model = state.model
    return {
        "arm": arm.name,
        "seed": seed,
        "base_sha256": base_digest(base),
        "steps": spent.steps,
        "cpu_s": round(spent.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in state.trained.values()),
        "target": dice_by_prompts(model, split.target, strengths),
        "base": dice_by_prompts(model, split.base, [1.0]),
        "curve": points,
    }


def train(
    arm: Arm,
    split: Split,
    base: Path,
    seed: int,
    budget: Budget,
    probe: Callable[[BilevelState, float], None] = lambda state, progress: None,
) -> tuple[BilevelState, Spent]:
    """Train an arm.

    Args:
        arm: what to train.
        split: the samples.
        base: where training starts.
        seed: of weights and batches.
        budget: of training; probing is not counted.
        probe: called before every step and at the end with the used share of the budget.

    Returns:
        The trained state and the used budget.
    """
    state, batches, bilevel, optimizer = prepare(arm, split, base, seed)

    def train_step(halves: Halves, progress: float) -> dict[str, float]:
        # At progress 0 the warm-up's factor is 0, and the first step would learn nothing.
        state.set_learning_rates(optimizer, min(1.0, progress + 1e-3))
        return state.train_step(halves, bilevel)

    drawn = (batches[index] for index in itertools.count())
    spent = train_within(
        budget,
        state,
        drawn,
        train_step,
        torch.device("cpu"),
        lambda progress: probe(state, progress),
    )
    return state, spent


class Prepared(NamedTuple):
    """An arm before its first step."""

    state: BilevelState
    batches: StepBatches
    bilevel: BilevelConfig
    optimizer: OptimizerConfig


def prepare(arm: Arm, split: Split, base: Path, seed: int) -> Prepared:
    """Make an arm ready to train."""
    optimizer = OptimizerConfig(lr=arm.lr, lr_capl=CAPL_LEARNING_RATE)
    bf16 = is_mixed(arm.precision, torch.device("cpu"))
    state = new_bilevel_state(load_base(base), arm.model, optimizer, seed=seed, bf16=bf16)
    batch = BatchConfig(
        images=2,
        entities=3,
        groups=arm.groups,
        styles=arm.styles,
        strength=arm.strength,
    )
    needed = arm.model.with_needed_practice(batch)
    batches = StepBatches(
        split.train,
        state.model.image_size,
        needed,
        split.scale,
        seed=seed,
        steps=1_000_000,
        held_out=bool(state.phi.parameters),
    )
    return Prepared(state, batches, replace(arm.bilevel, losses=arm.losses), optimizer)


def _point(state: BilevelState, split: Split, progress: float) -> dict[str, float]:
    return {
        "progress": progress,
        "base": noisy_dice(state.model, split.base, 1.0),
        "target": noisy_dice(state.model, split.target, 1.0),
    }
