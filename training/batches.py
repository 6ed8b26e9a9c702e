"""What a training step sees: windows of two half-batches, and K prompt groups for every entity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cpcsam.errors import DataError
from training.augment import AugmentConfig, window_with_entities
from training.data import Sample
from training.prompts import PromptMix, sample_prompt

__all__ = ["BatchConfig", "Halves", "PromptBatch", "StepBatches"]

WINDOW_ATTEMPTS = 100

GROUP_STYLES = (
    PromptMix(box=0.0, several=0.0, centre=1.0),
    PromptMix(box=0.0, several=0.0, centre=0.0),
    PromptMix(box=1.0, several=0.0),
    PromptMix(box=0.0, several=1.0, centre=0.2),
    PromptMix(box=0.0, several=0.0, centre=0.0, wrong=0.5),
)
"""One annotator each: central clicks, any clicks, loose boxes, several clicks, careless clicks."""


@dataclass(frozen=True)
class BatchConfig:
    """How a step's batch is drawn.

    Attributes:
        images: windows in each half-batch.
        entities: entities of a window that are prompted.
        groups: K, prompt groups an entity.
        styles: how each group annotates; group k takes style k modulo their number.
        min_area: entities of fewer shown pixels get no prompt.
        augment: how windows vary.
    """

    images: int = 2
    entities: int = 4
    groups: int = 5
    styles: tuple[PromptMix, ...] = GROUP_STYLES
    min_area: int = 40
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class PromptBatch:
    """B windows with P = entities · groups prompts each; the groups of an entity are adjacent.

    Attributes:
        image: (B, 3, S, S) uint8.
        masks: (B, entities, S, S) bool.
        point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
        point_labels: (B, P, N) int32, `PointLabel`.
    """

    image: Tensor
    masks: Tensor
    point_coords: Tensor
    point_labels: Tensor

    def prompt_masks(self) -> Tensor:
        """The entity of each prompt, (B, P, S, S) bool."""
        groups = self.point_labels.shape[1] // self.masks.shape[1]
        return self.masks.repeat_interleave(groups, dim=1)


@dataclass(frozen=True)
class Halves:
    """The two half-batches of a bi-level step: θ learns on one, φ on the other."""

    training: PromptBatch
    held_out: PromptBatch


class StepBatches(Dataset[Halves]):
    """Batches of step i, decided by the seed and i alone, so that a killed run can be resumed.

    The two halves come from different samples wherever there are enough of them.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: int,
        config: BatchConfig,
        *,
        seed: int,
        steps: int,
    ) -> None:
        self.samples = [sample for sample in samples if sample.instances.any()]
        self.image_size = image_size
        self.config = config
        self.seed = seed
        self.steps = steps
        if not self.samples:
            raise DataError.of(
                "training data",
                got=f"{len(samples)} images without an entity",
                expected="at least one annotated entity",
                fix="give other images or another region",
            )

    def __len__(self) -> int:
        """Steps of the run."""
        return self.steps

    def __getitem__(self, index: int) -> Halves:
        """Draw the two half-batches of a step."""
        rng = np.random.default_rng((self.seed, index))
        images = self.config.images
        scarce = len(self.samples) < 2 * images
        drawn = rng.choice(len(self.samples), 2 * images, replace=scarce)
        return Halves(
            training=self._half([self.samples[i] for i in drawn[:images]], rng),
            held_out=self._half([self.samples[i] for i in drawn[images:]], rng),
        )

    def _half(self, samples: Sequence[Sample], rng: np.random.Generator) -> PromptBatch:
        rows = [self._image(sample, rng) for sample in samples]
        return PromptBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _image(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, ...]:
        config = self.config
        for _ in range(WINDOW_ATTEMPTS):
            window, found = window_with_entities(
                sample, self.image_size, config.augment, config.min_area, rng
            )
            if len(found):
                break
        else:
            raise DataError.of(
                f"sample {sample.name}",
                got=f"no entity of {config.min_area} shown pixels in {WINDOW_ATTEMPTS} windows",
                expected="entities large enough to be prompted",
                fix="lower batch.min_area or batch.augment.max_window",
            )
        chosen = rng.choice(found, config.entities, replace=len(found) < config.entities)
        masks = window.instances.numpy() == chosen[:, None, None]
        prompts = [
            sample_prompt(mask, config.styles[group % len(config.styles)], rng)
            for mask in masks
            for group in range(config.groups)
        ]
        coords, point_labels = (np.stack(column) for column in zip(*prompts, strict=True))
        return (
            window.image,
            torch.from_numpy(masks),
            torch.from_numpy(coords),
            torch.from_numpy(point_labels),
        )
