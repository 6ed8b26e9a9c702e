"""The arms of `benchmarks.calibration`: what each trains, on what, and how it is scored.

Noise levels and baselines were written before CaPL was first run on this data; LoRA's alpha, the
learning rate of CaPL and how often it is updated were chosen afterwards, on other target classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.confounded import scene
from benchmarks.stains import is_stained
from cpcsam.checkpoint import base_digest, load_base
from cpcsam.model.capl import CaplConfig
from cpcsam.model.lora import LoraConfig
from cpcsam.model.sam import CpcSam
from training.augment import AugmentConfig, whole_window
from training.batches import BatchConfig, StepBatches
from training.bilevel import BilevelConfig, bilevel_step
from training.data import Sample, entity_windows, read_bbbc038
from training.learner import Learner, ModelConfig, OptimizerConfig, new_learner
from training.losses import LossConfig
from training.metrics import dice_score, to_size
from training.prompts import PromptMix, sample_prompt

__all__ = [
    "ABLATIONS",
    "ACCURATE",
    "CORE",
    "NOISE",
    "NOISY_STYLES",
    "SHOTS",
    "Arm",
    "Split",
    "noisy_dice",
    "read_split",
    "run",
]

NOISY_STYLES = (
    PromptMix(box=0, several=0, centre=0.5, wrong=0.4, wrong_reach=10),
    PromptMix(box=0, several=0, centre=0.0, edge=1.0, wrong=0.4, wrong_reach=10),
    PromptMix(box=1, several=0, box_jitter=0.15, box_loose=0.3),
    PromptMix(box=1, several=0, box_jitter=0.05, box_shift=0.25),
    PromptMix(box=0, several=1, centre=0.2, wrong=0.4, wrong_reach=10),
)
"""Five careless annotators: they prompt every test entity, and are the K groups in training."""

ACCURATE = PromptMix(box=0.5, several=0, centre=1.0, box_jitter=0)
"""One careful annotator: a tight box or a click in the centre."""

NOISE = (0.0, 0.5, 1.0, 1.5)
"""Strengths that a trained model is tested at; 1 is the main figure."""

SHOTS = {"standard": 8, "few-shot": 4}
"""Training scenes, as the paper's public code counts examples."""

LEARNING_RATE = 1e-3
CAPL_LEARNING_RATE = 3e-4
ALPHA = 50.0
"""LoRA's, whatever the rank: it sets how fast LoRA learns, which must not differ between arms."""

TEST_SCENES = 24
MATCHED_RANK = 50
"""LoRA of this rank has as many parameters as LoRA of rank 4 with both modules of CaPL."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: of its results.
        label: for tables.
        model: what learns.
        groups: K, prompt groups an entity.
        styles: how they annotate.
        strength: of their carelessness.
        bilevel: how θ and φ take turns.
        losses: weights of the objectives.
        lr: peak learning rate of θ.
    """

    name: str
    label: str
    model: ModelConfig = field(default_factory=ModelConfig)
    groups: int = 5
    styles: tuple[PromptMix, ...] = NOISY_STYLES
    strength: float = 1.0
    bilevel: BilevelConfig = field(default_factory=BilevelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    lr: float = LEARNING_RATE


def _lora(rank: int) -> ModelConfig:
    return ModelConfig(lora=LoraConfig(rank=rank, alpha=ALPHA), capl=None)


def _capl(rank: int = 4, **options: Any) -> ModelConfig:
    return ModelConfig(lora=LoraConfig(rank=rank, alpha=ALPHA), capl=CaplConfig(**options))


TURNS = BilevelConfig(capl_every=3)
BOTH = Arm("both", "CaPL: task and entity module", _capl(), bilevel=TURNS)
CORE = (
    Arm("single", "LoRA, one accurate prompt a sample (SAMed)", _lora(4), 1, (ACCURATE,)),
    Arm("groups", "LoRA of as many parameters, the same K groups", _lora(MATCHED_RANK)),
    Arm("task", "CaPL: task module", _capl(entity=False), bilevel=TURNS),
    Arm("entity", "CaPL: entity module", _capl(task=False), bilevel=TURNS),
    BOTH,
)
STRATEGIES: dict[str, dict[str, Any]] = {
    "capl_first": {},
    "unrolled": {"unroll_steps": 1},
    "sam_first": {"order": "sam_first"},
    "capl_5_steps": {"capl_steps": 5},
}


def _varied(factor: str, value: object, **changes: Any) -> Arm:
    return replace(BOTH, name=f"{factor}={value}", label=f"{factor} {value}", **changes)


ABLATIONS = (
    *(_varied("noise", s, strength=s) for s in (0.5, 1.0, 1.5)),
    *(_varied("beta", b, losses=LossConfig(beta=b)) for b in (0.2, 0.6, 1.0)),
    *(_varied("lambda", w, losses=LossConfig(sparsity=w)) for w in (0.01, 0.1, 1.0)),
    *(_varied("K", k, groups=k) for k in (2, 5, 8)),
    *(_varied("rank", r, model=_capl(rank=r)) for r in (1, 4, 16)),
    *(_varied("capl_every", n, bilevel=BilevelConfig(capl_every=n)) for n in (1, 3, 6)),
    *(
        _varied("strategy", name, bilevel=replace(TURNS, **changes))
        for name, changes in STRATEGIES.items()
    ),
    _varied("task", "literal", model=_capl(image_conditioned=False)),
    Arm("single-careless", "LoRA, one careless prompt a sample", _lora(4), 1),
    _varied(
        "theta",
        "full",
        model=ModelConfig(lora=LoraConfig(rank=0), full_finetuning=True),
        lr=LEARNING_RATE / 10,
    ),
)


@dataclass(frozen=True)
class Split:
    """Samples of the encoder's size or larger.

    Attributes:
        train: of base classes.
        base: held out, of base classes.
        target: of target classes.
        augment: how training windows vary.
    """

    train: tuple[Sample, ...]
    base: tuple[Sample, ...]
    target: tuple[Sample, ...]
    augment: AugmentConfig


def read_split(seed: int, shots: int, bbbc038: Path | None = None) -> Split:
    """Draw the training samples of a seed; the test samples are the same for all.

    On BBBC038v1 fluorescence is the base domain, stained tissue the target.

    Args:
        seed: of the training samples.
        shots: number of training samples.
        bbbc038: the dataset's folder; None takes the confounded scenes.
    """
    if bbbc038 is None:
        return Split(
            tuple(scene(1000 * (seed + 1) + index, target=False) for index in range(shots)),
            tuple(scene(900_000 + index, target=False) for index in range(TEST_SCENES // 2)),
            tuple(scene(900_000 + index, target=True) for index in range(TEST_SCENES)),
            AugmentConfig(min_window=160, max_window=256),
        )
    train, test = (read_bbbc038(bbbc038, bbbc038 / f"{name}.txt") for name in ("train", "val"))
    base = [sample for sample in train if not is_stained(sample)]
    chosen = np.random.default_rng(seed).choice(len(base), shots, replace=False)
    crops = [window for sample in test for window in entity_windows(sample, 128, 30)[:8]]
    return Split(
        tuple(base[index] for index in chosen),
        tuple(crop for crop in crops if not is_stained(crop))[: 5 * TEST_SCENES],
        tuple(crop for crop in crops if is_stained(crop))[: 5 * TEST_SCENES],
        AugmentConfig(min_window=96, max_window=176),
    )


@torch.no_grad()
def noisy_dice(model: CpcSam, samples: Sequence[Sample], strength: float) -> float:
    """Mean Dice of mask 0 over all entities and careless annotators.

    The prompts are decided by sample, entity and annotator alone: every model gets the same.

    Args:
        model: in evaluation mode.
        samples: square samples.
        strength: of the annotators' carelessness.
    """
    scores = []
    for sample in samples:
        window = whole_window(sample, model.image_size)
        shown = window.instances.numpy()
        labels = [int(label) for label in np.unique(sample.instances) if label]
        prompts = [
            sample_prompt(shown == label, style.scaled(strength), np.random.default_rng(key))
            for label in labels
            for index, style in enumerate(NOISY_STYLES)
            for key in [(label, index, len(sample.name), *sample.name.encode())]
        ]
        coords, point_labels = (
            torch.from_numpy(np.stack(column))[None] for column in zip(*prompts, strict=True)
        )
        input_size = torch.full((1, 2), model.image_size, dtype=torch.int32)
        embeddings = model.encode_image(window.image[None], input_size)
        low_res_masks, _ = model.decode_masks(
            embeddings, *model.encode_prompts(embeddings, coords, point_labels)
        )
        masks = to_size(low_res_masks[0, :, :1], model.image_size, len(sample.instances))[:, 0]
        truths = [sample.instances == label for label in labels for _ in NOISY_STYLES]
        scores += [dice_score(*pair) for pair in zip(masks, truths, strict=True)]
    return float(np.mean(scores))


def run(
    arm: Arm, split: Split, base: Path, seed: int, minutes: float, curve: int = 0
) -> dict[str, Any]:
    """Train an arm for some minutes of one core and score it.

    The clock is the process's CPU time, so that runs side by side do not rob each other.

    Args:
        arm: what to train.
        split: the samples.
        base: where training starts.
        seed: of weights and batches.
        minutes: CPU minutes of training; drawing batches and scoring are not counted.
        curve: how often to score base and target classes on the way (Figure 1a).

    Returns:
        Plain data: Dice on base and target classes at every strength of `NOISE`, steps, seconds,
        parameters and the curve.
    """
    optimizer = OptimizerConfig(lr=arm.lr, lr_capl=CAPL_LEARNING_RATE)
    learner = new_learner(load_base(base), arm.model, optimizer, seed=seed, bf16=True)
    batch = BatchConfig(
        images=2,
        entities=3,
        groups=arm.groups,
        styles=arm.styles,
        strength=arm.strength,
        augment=split.augment,
    )
    batches = StepBatches(split.train, learner.model.image_size, batch, seed=seed, steps=1_000_000)
    bilevel = replace(arm.bilevel, losses=arm.losses)
    spent = 0.0
    points: list[dict[str, float]] = []
    while spent < 60 * minutes:
        if curve and len(points) <= curve * spent / (60 * minutes):
            points.append(_point(learner, split, spent / (60 * minutes)))
        halves = batches[learner.step]
        started = time.process_time()
        learner.set_learning_rates(optimizer, min(1.0, spent / (60 * minutes) + 1e-3))
        bilevel_step(
            learner.forward, learner.theta, learner.phi, halves, bilevel, step=learner.step
        )
        learner.step += 1
        spent += time.process_time() - started
    model = learner.model
    if curve:
        points.append(_point(learner, split, 1.0))
    return {
        "arm": arm.name,
        "seed": seed,
        "base_sha256": base_digest(base),
        "steps": learner.step,
        "cpu_s": round(spent, 1),
        "parameters": _count(learner.theta.parameters) + _count(learner.phi.parameters),
        "target": {str(level): noisy_dice(model, split.target, level) for level in NOISE},
        "base": {"1.0": noisy_dice(model, split.base, 1.0)},
        "curve": points,
    }


def _point(learner: Learner, split: Split, progress: float) -> dict[str, float]:
    return {
        "progress": progress,
        "base": noisy_dice(learner.model, split.base, 1.0),
        "target": noisy_dice(learner.model, split.target, 1.0),
    }


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters.values())
