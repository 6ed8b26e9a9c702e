"""Small annotated images and batches for tests of the training stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.batches import BatchConfig, Halves, StepBatches
from training.data import Sample
from training.learner import Learner, ModelConfig, OptimizerConfig, new_learner

from .model_factory import noisy_sam

DISCS = ((40, 44, 14), (100, 40, 18), (60, 120, 20), (130, 130, 16))


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


def write_pair(folder: Path, sample: Sample) -> tuple[Path, Path]:
    """Save a sample as an image and a label image."""
    paths = folder / "image.png", folder / "instances.png"
    Image.fromarray(sample.image).save(paths[0])
    Image.fromarray(sample.instances.astype(np.uint8)).save(paths[1])
    return paths


def tiny_batches(steps: int = 4) -> StepBatches:
    """One window of two entities with two prompt groups in each half."""
    config = BatchConfig(images=1, entities=2, groups=2)
    return StepBatches([discs(0), discs(1)], 256, config, seed=3, steps=steps)


def tiny_halves() -> Halves:
    """The first batch of `tiny_batches`."""
    return tiny_batches()[0]


def tiny_learner(
    config: ModelConfig | None = None, optimizer: OptimizerConfig | None = None
) -> Learner:
    """vit_t of one block, with random weights, prepared for training."""
    model = noisy_sam()
    model.sam.image_encoder.blocks = model.sam.image_encoder.blocks[:1]
    return new_learner(
        model, config or ModelConfig(), optimizer or OptimizerConfig(), seed=0, bf16=False
    )
