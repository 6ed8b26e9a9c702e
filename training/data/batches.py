"""Training batches: windows of two half-batches, and K prompt groups for every entity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cpcsam.checks import require_range
from cpcsam.contract import LOW_RES_FACTOR, PATCH_SIZE
from cpcsam.errors import ConfigError, DataError
from training.data.augment import AugmentConfig, Window, window_with_entities
from training.data.prompt_sampling import PromptMix, accurate_points, coarse_mask, sample_prompt
from training.data.sample import Sample

__all__ = ["PRACTICE", "BatchConfig", "Halves", "PromptBatch", "StepBatches"]

PRACTICE = ("practice_coords", "practice_labels", "accurate_coords")
"""Columns of a `PromptBatch` that supervise point calibration."""

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
    """Sampling of a step's batch.

    Attributes:
        images: windows in each half-batch.
        entities: entities of a window that are prompted.
        groups: K, prompt groups an entity.
        styles: simulated annotators; group k takes style k modulo their number. If there
            are more styles than groups, every entity draws its first style.
        strength: factor of the annotators' noise; 0 is accurate.
        practice: prompts of a training window, of any of its entities, that supervise point
            calibration; they are not decoded.
        practice_styles: their annotators; none takes `styles`.
        min_area: entities of fewer shown pixels get no prompt.
        augment: augmentation of windows.
    """

    images: int = 2
    entities: int = 4
    groups: int = 5
    styles: tuple[PromptMix, ...] = GROUP_STYLES
    strength: float = 1.0
    practice: int = 160
    practice_styles: tuple[PromptMix, ...] = ()
    min_area: int = 40
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Refuse batches without images, entities or prompts."""
        for name in ("images", "entities", "groups", "min_area"):
            require_range(f"batch.{name}", getattr(self, name), 1)
        require_range("batch.strength", self.strength, 0)
        require_range("batch.practice", self.practice, 0)
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
        mask_input: (B, P, 1, 4G, 4G) float32 logits of coarse masks; None if no annotator draws
            any.
        has_mask: (B, P) bool, True for prompts with a coarse mask; None likewise.
        practice_coords: (B, Q, N, 2) float32, points to calibrate; None without practice.
        practice_labels: (B, Q, N) int32; None likewise.
        accurate_coords: (B, Q, N, 2) float32, their targets; None likewise.
    """

    image: Tensor
    masks: Tensor
    point_coords: Tensor
    point_labels: Tensor
    mask_input: Tensor | None = None
    has_mask: Tensor | None = None
    practice_coords: Tensor | None = None
    practice_labels: Tensor | None = None
    accurate_coords: Tensor | None = None

    def prompt_masks(self) -> Tensor:
        """Return the entity of each prompt, (B, P, S, S) bool."""
        groups = self.point_labels.shape[1] // self.masks.shape[1]
        return self.masks.repeat_interleave(groups, dim=1)

    def practice(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return coordinates, labels and accurate coordinates of the practice prompts.

        Raises:
            ConfigError: the batch has none.
        """
        coords, labels, accurate = (getattr(self, name) for name in PRACTICE)
        if coords is None:
            raise ConfigError.of(
                "batch.practice",
                got=0,
                expected="1 or more with CaPL that moves points",
                fix="set batch.practice, or model.capl.moves_points=false",
            )
        return coords, labels, accurate

    def to(self, device: torch.device) -> PromptBatch:
        """Move the batch to a device."""
        columns: Iterator[Any] = (
            None if column is None else column.to(device) for column in vars(self).values()
        )
        return PromptBatch(*columns)

    def microbatches(self, count: int) -> list[PromptBatch]:
        """Split into `count` batches of equally many windows; B must be a multiple of it."""
        columns: Iterator[Sequence[Any]] = (
            [None] * count if column is None else column.unflatten(0, (count, -1)).unbind()
            for column in vars(self).values()
        )
        return [PromptBatch(*row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Halves:
    """The two half-batches of a bi-level step: θ is trained on `training`, φ on `held_out`."""

    training: PromptBatch
    held_out: PromptBatch

    def to(self, device: torch.device) -> Halves:
        """Move both halves to a device."""
        return Halves(self.training.to(device), self.held_out.to(device))


class StepBatches(Dataset[Halves]):
    """Deterministic batches: the seed and i alone decide step i, so that a killed run can resume.

    The two halves come from different samples if there are enough. Each of several processes draws
    the whole batch and keeps its own slice of either half.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: int,
        config: BatchConfig,
        *,
        seed: int,
        steps: int,
        rank_slice: slice = slice(None),
    ) -> None:
        self.samples = samples
        self.image_size = image_size
        self.config = config
        self.styles, self.practice_styles = (
            [style.scaled(config.strength) for style in styles]
            for styles in (config.styles, config.practice_styles or config.styles)
        )
        self.draws_masks = any(style.mask for style in self.styles)
        self.seed = seed
        self.steps = steps
        self.rank_slice = rank_slice
        if not len(samples):
            raise _no_entity(0)

    def __len__(self) -> int:
        """Return the number of steps of the run."""
        return self.steps

    def __getitem__(self, index: int) -> Halves:
        """Draw the two half-batches of a step."""
        rng = np.random.default_rng((self.seed, index))
        images = self.config.images
        scarce = len(self.samples) < 2 * images
        drawn = [int(i) for i in rng.choice(len(self.samples), 2 * images, replace=scarce)]
        samples = self._with_entities(drawn, rng)
        return Halves(
            training=self._half(samples[:images], rng, self.config.practice),
            held_out=self._half(samples[images:], rng),
        )

    def _with_entities(self, drawn: list[int], rng: np.random.Generator) -> list[Sample]:
        """Read samples; replace each without an entity by another, preferably unused, sample."""
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

    def _half(
        self, samples: Sequence[Sample], rng: np.random.Generator, practice: int = 0
    ) -> PromptBatch:
        rows = [self._image(sample, rng, practice) for sample in samples][self.rank_slice]
        return PromptBatch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[Window, NDArray[np.int64]]:
        """Cut a window that shows an entity; try other samples if its own are too small."""
        config, first = self.config, sample.name
        for _ in range(SAMPLE_ATTEMPTS):
            for _ in range(WINDOW_ATTEMPTS if sample.instances.any() else 0):
                window, labels = window_with_entities(
                    sample, self.image_size, config.augment, config.min_area, rng
                )
                if len(labels):
                    return window, labels
            sample = self.samples[int(rng.integers(len(self.samples)))]
        raise DataError.of(
            f"sample {first}",
            got=f"no entity of {config.min_area} shown pixels in {WINDOW_ATTEMPTS} windows, nor "
            f"in those of {SAMPLE_ATTEMPTS - 1} others",
            expected="entities large enough to be prompted",
            fix="lower batch.min_area or batch.augment.max_window",
        )

    def _image(self, sample: Sample, rng: np.random.Generator, practice: int) -> dict[str, Tensor]:
        config = self.config
        window, labels = self._window(sample, rng)
        chosen = rng.choice(labels, config.entities, replace=len(labels) < config.entities)
        instances = window.instances.numpy()
        masks = instances == chosen[:, None, None]
        pairs = [(mask, style) for mask in masks for style in self._styles(rng)]
        coords, point_labels = _prompts(pairs, rng)
        columns = {"masks": masks, "point_coords": coords, "point_labels": point_labels}
        if self.draws_masks:
            side = LOW_RES_FACTOR * self.image_size // PATCH_SIZE
            columns["mask_input"] = np.stack(
                [coarse_mask(mask, style, side, rng) for mask, style in pairs]
            )
            columns["has_mask"] = np.array([rng.random() < style.mask for _, style in pairs])
        if practice:
            columns |= self._practice(instances, labels, practice, rng.spawn(1)[0])
        return {
            "image": window.image,
            **{name: torch.from_numpy(column) for name, column in columns.items()},
        }

    def _practice(
        self,
        instances: NDArray[np.int32],
        labels: NDArray[np.int64],
        count: int,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """Prompt random entities of a window; add the coordinates of an accurate annotator."""
        entities = rng.integers(len(labels), size=count)
        masks = {i: instances == labels[i] for i in np.unique(entities)}
        points = {i: accurate_points(mask) for i, mask in masks.items()}
        styles = rng.integers(len(self.practice_styles), size=count)
        pairs = [(masks[i], self.practice_styles[j]) for i, j in zip(entities, styles, strict=True)]
        coords, point_labels = _prompts(pairs, rng)
        targets = [points[i][kinds] for i, kinds in zip(entities, point_labels, strict=True)]
        return {
            "practice_coords": coords,
            "practice_labels": point_labels,
            "accurate_coords": np.stack(targets),
        }

    def _styles(self, rng: np.random.Generator) -> list[PromptMix]:
        count, groups = len(self.styles), self.config.groups
        first = int(rng.integers(count)) if groups < count else 0
        return [self.styles[(first + group) % count] for group in range(groups)]


def _prompts(
    pairs: Sequence[tuple[NDArray[np.bool_], PromptMix]], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    slots = [sample_prompt(mask, style, rng) for mask, style in pairs]
    coords, labels = zip(*slots, strict=True)
    return np.stack(coords), np.stack(labels)


def _no_entity(images: int) -> Exception:
    return DataError.of(
        "training data",
        got=f"{images} images without an entity",
        expected="at least one annotated entity",
        fix="give other images, another region or other classes",
    )
