"""What a training step sees: windows of two half-batches, and K prompt groups for every entity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cpcsam.contract import LOW_RES_FACTOR, PATCH_SIZE
from cpcsam.errors import ConfigError, DataError
from cpcsam.ranges import require_range
from training.augment import AugmentConfig, Window, window_with_entities
from training.data import Sample
from training.prompts import PromptMix, coarse_mask, sample_prompt

__all__ = ["BatchConfig", "Halves", "PromptBatch", "StepBatches"]

WINDOW_ATTEMPTS = 100
SAMPLE_ATTEMPTS = 10

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
        styles: how each group annotates; group k takes style k modulo their number. Where there
            are more styles than groups, every entity draws the style to begin with.
        strength: how careless the annotators are, a factor of their noise; 0 is accurate.
        min_area: entities of fewer shown pixels get no prompt.
        augment: how windows vary.
    """

    images: int = 2
    entities: int = 4
    groups: int = 5
    styles: tuple[PromptMix, ...] = GROUP_STYLES
    strength: float = 1.0
    min_area: int = 40
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Refuse batches without images, entities or prompts."""
        for name in ("images", "entities", "groups", "min_area"):
            require_range(f"batch.{name}", getattr(self, name), 1)
        require_range("batch.strength", self.strength, 0)
        if not self.styles:
            raise ConfigError.of(
                "batch.styles", got="none", expected="one or more", fix="say how groups annotate"
            )


@dataclass(frozen=True)
class PromptBatch:
    """B windows with P = entities · groups prompts each; the groups of an entity are adjacent.

    Attributes:
        image: (B, 3, S, S) uint8.
        masks: (B, entities, S, S) bool.
        point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
        point_labels: (B, P, N) int32, `PointLabel`.
        mask_input: (B, P, 1, 4G, 4G) float32 logits of coarse masks; None where no annotator
            draws any.
        has_mask: (B, P) bool, which prompts have one; None likewise.
    """

    image: Tensor
    masks: Tensor
    point_coords: Tensor
    point_labels: Tensor
    mask_input: Tensor | None = None
    has_mask: Tensor | None = None

    def prompt_masks(self) -> Tensor:
        """The entity of each prompt, (B, P, S, S) bool."""
        groups = self.point_labels.shape[1] // self.masks.shape[1]
        return self.masks.repeat_interleave(groups, dim=1)

    def to(self, device: torch.device) -> PromptBatch:
        """The same batch on a device."""
        columns: Iterator[Any] = (
            None if column is None else column.to(device) for column in vars(self).values()
        )
        return PromptBatch(*columns)

    def chunks(self, count: int) -> list[PromptBatch]:
        """Split into `count` batches of as many windows each; B must be a multiple of it."""
        columns: Iterator[Sequence[Any]] = (
            [None] * count if column is None else column.unflatten(0, (count, -1)).unbind()
            for column in vars(self).values()
        )
        return [PromptBatch(*row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Halves:
    """The two half-batches of a bi-level step: θ learns on one, φ on the other."""

    training: PromptBatch
    held_out: PromptBatch

    def to(self, device: torch.device) -> Halves:
        """The same batches on a device."""
        return Halves(self.training.to(device), self.held_out.to(device))


class StepBatches(Dataset[Halves]):
    """Batches of step i, decided by the seed and i alone, so that a killed run can be resumed.

    The two halves come from different samples wherever there are enough of them. Of several
    processes each draws the whole batch and keeps its own part of either half.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: int,
        config: BatchConfig,
        *,
        seed: int,
        steps: int,
        part: slice = slice(None),
    ) -> None:
        self.samples = samples
        self.image_size = image_size
        self.config = config
        self.styles = [style.scaled(config.strength) for style in config.styles]
        self.draws_masks = any(style.mask for style in self.styles)
        self.seed = seed
        self.steps = steps
        self.part = part
        if not len(samples):
            raise _no_entity(0)

    def __len__(self) -> int:
        """Steps of the run."""
        return self.steps

    def __getitem__(self, index: int) -> Halves:
        """Draw the two half-batches of a step."""
        rng = np.random.default_rng((self.seed, index))
        images = self.config.images
        scarce = len(self.samples) < 2 * images
        drawn = [int(i) for i in rng.choice(len(self.samples), 2 * images, replace=scarce)]
        samples = self._with_entities(drawn, rng)
        return Halves(
            training=self._half(samples[:images], rng),
            held_out=self._half(samples[images:], rng),
        )

    def _with_entities(self, drawn: list[int], rng: np.random.Generator) -> list[Sample]:
        """Read samples; draw another for each that has no entity, not twice if it can be helped."""
        samples = [self.samples[i] for i in drawn]
        spare: list[int] | None = None
        for place, sample in enumerate(samples):
            while not sample.instances.any():
                if spare is None:
                    others = sorted(set(range(len(self.samples))) - set(drawn))
                    spare = [int(i) for i in rng.permutation(others)]
                if spare:
                    sample = self.samples[spare.pop()]
                    continue
                held = [other for other in samples if other.instances.any()]
                if not held:
                    raise _no_entity(len(self.samples))
                sample = held[int(rng.integers(len(held)))]
            samples[place] = sample
        return samples

    def _half(self, samples: Sequence[Sample], rng: np.random.Generator) -> PromptBatch:
        rows = [self._image(sample, rng) for sample in samples][self.part]
        return PromptBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[Window, NDArray[np.int64]]:
        """Cut a window that shows an entity, out of other samples where this one's are small."""
        config, first = self.config, sample.name
        for _ in range(SAMPLE_ATTEMPTS):
            for _ in range(WINDOW_ATTEMPTS if sample.instances.any() else 0):
                window, found = window_with_entities(
                    sample, self.image_size, config.augment, config.min_area, rng
                )
                if len(found):
                    return window, found
            sample = self.samples[int(rng.integers(len(self.samples)))]
        raise DataError.of(
            f"sample {first}",
            got=f"no entity of {config.min_area} shown pixels in {WINDOW_ATTEMPTS} windows, nor "
            f"in those of {SAMPLE_ATTEMPTS - 1} others",
            expected="entities large enough to be prompted",
            fix="lower batch.min_area or batch.augment.max_window",
        )

    def _image(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, ...]:
        config = self.config
        window, found = self._window(sample, rng)
        chosen = rng.choice(found, config.entities, replace=len(found) < config.entities)
        masks = window.instances.numpy() == chosen[:, None, None]
        pairs = [(mask, style) for mask in masks for style in self._styles(rng)]
        prompts = [sample_prompt(mask, style, rng) for mask, style in pairs]
        coords, point_labels = (np.stack(column) for column in zip(*prompts, strict=True))
        row = (
            window.image,
            torch.from_numpy(masks),
            torch.from_numpy(coords),
            torch.from_numpy(point_labels),
        )
        if not self.draws_masks:
            return row
        side = LOW_RES_FACTOR * self.image_size // PATCH_SIZE
        mask_input = np.stack([coarse_mask(mask, style, side, rng) for mask, style in pairs])
        has_mask = np.array([rng.random() < style.mask for _, style in pairs])
        return (*row, torch.from_numpy(mask_input), torch.from_numpy(has_mask))

    def _styles(self, rng: np.random.Generator) -> list[PromptMix]:
        count, groups = len(self.styles), self.config.groups
        first = int(rng.integers(count)) if groups < count else 0
        return [self.styles[(first + group) % count] for group in range(groups)]


def _no_entity(images: int) -> Exception:
    return DataError.of(
        "training data",
        got=f"{images} images without an entity",
        expected="at least one annotated entity",
        fix="give other images, another region or other classes",
    )
