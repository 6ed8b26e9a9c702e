"""Small annotated images and batches for tests of the training stage."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cpcsam.model.build_sam import EncoderSize, build_sam_with
from cpcsam.model.capl import FULL_CAPL
from cpcsam.model.sam import CpcSam
from cpcsam.scale import Scale
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.train_state import BilevelState, new_bilevel_state
from training.data.batches import BatchConfig, StepBatches
from training.data.prompt_batch import Halves
from training.data.sample import Sample
from training.pretraining.config import PretrainBatchConfig, PretrainConfig, PretrainData

from .model_factory import fill_with_noise, noisy_sam

DISCS = ((40, 44, 14), (100, 40, 18), (60, 120, 20), (130, 130, 16))
MINIATURE = 64


def discs(seed: int = 0, side: int = 160) -> Sample:
    """Four bright discs on a dark ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = rng.normal(50, 5, (side, side, 3))
    instances = np.zeros((side, side), np.int32)
    for label, (column, row, radius) in enumerate(DISCS, 1):
        inside = (x - column) ** 2 + (y - row) ** 2 < radius**2
        image[inside] += 120
        instances[inside] = label
    return Sample(f"discs-{seed}", image.clip(0, 255).astype(np.uint8), instances)


SCALE = Scale(101, 1.58)
"""Of windows of 64 to 160 pixels, the whole of a sample of `discs`."""


def write_pair(folder: Path, sample: Sample) -> tuple[Path, Path]:
    """Save a sample as an image and a label image."""
    paths = folder / "image.png", folder / "instances.png"
    Image.fromarray(sample.image).save(paths[0])
    Image.fromarray(sample.instances.astype(np.uint8)).save(paths[1])
    return paths


def tiny_batches(steps: int = 4, image_size: int = 256) -> StepBatches:
    """One window of two entities with two prompt groups in each half."""
    config = BatchConfig(images=1, entities=2, groups=2)
    return StepBatches([discs(0), discs(1)], image_size, config, SCALE, seed=3, steps=steps)


@cache
def tiny_halves(image_size: int = MINIATURE) -> Halves:
    """The first batch of `tiny_batches`, which no step changes."""
    return tiny_batches(image_size=image_size)[0]


def tiny_state(
    config: ModelConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    *,
    image_size: int = MINIATURE,
    double: bool = False,
) -> BilevelState:
    """A SAM with an encoder of one block and random weights, prepared for training.

    The encoder is vit_t's for 256 pixels, and far smaller for a `MINIATURE` of an image. With
    `double` the model is in float64, every weight filled with noise: far from the identity, with
    |C| away from its kink at 0.
    """
    if image_size == MINIATURE:
        model = _miniature_sam()
    else:
        model = noisy_sam(image_size)
        model.sam.image_encoder.blocks = model.sam.image_encoder.blocks[:1]
    state = new_bilevel_state(
        model,
        config or ModelConfig(capl=FULL_CAPL),
        optimizer or OptimizerConfig(),
        seed=0,
        bf16=False,
        dtype=torch.float64 if double else torch.float32,
    )
    if double:
        fill_with_noise(model, seed=2, scale=0.3)
    return state


def _miniature_sam() -> CpcSam:
    torch.manual_seed(0)
    return copy.deepcopy(_filled_miniature())


@cache
def _filled_miniature() -> CpcSam:
    encoder = EncoderSize(32, 1, 2, (0,), window_size=0, default_image_size=MINIATURE)
    sam = build_sam_with(encoder, MINIATURE)
    fill_with_noise(sam, seed=0)
    return CpcSam(sam.eval())


TINY_BATCH = PretrainBatchConfig(images=1, prompts=2, synthetic_scenes=2, scale=Scale(160, 1.6))


def tiny_pretraining(tmp_path: Path, name: str, **changes: object) -> PretrainConfig:
    """Return a pretraining of four steps on synthetic scenes, below `tmp_path/name`."""
    settings: dict[str, object] = {
        "out": tmp_path / name / "base",
        "run": tmp_path / name / "run",
        "steps": 4,
        "warmup_steps": 1,
        "correction_every": 2,
        "auxiliary_steps": 2,
        "precision": "float32",
        "checkpoint_every": 2,
        "evaluate_every": 100,
        "batch": TINY_BATCH,
        "data": PretrainData(val_scenes=1),
    }
    return PretrainConfig(**{**settings, **changes})  # type: ignore[arg-type]
