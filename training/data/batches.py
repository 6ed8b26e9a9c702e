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

from cpcsam.checks import require_range
from cpcsam.contract import LOW_RES_FACTOR, PATCH_SIZE
from cpcsam.errors import ConfigError, DataError
from training.data.augment import AugmentConfig, Window, window_with_entities
from training.data.prompt_sampling import PromptMix, accurate_points, coarse_mask, sample_prompt
from training.data.sample import Sample

__all__ = ["PRACTICE", "BatchConfig", "Halves", "PromptBatch", "StepBatches"]

PRACTICE = ("practice_coords", "practice_labels", "accurate_coords")
"""Columns of a `PromptBatch` that CaPL learns from where points should be."""

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
        practice: prompts of a training window, of any of its entities, on which CaPL learns where
            points should be; they are not decoded.
        practice_styles: how they annotate; none takes `styles`.
        min_area: entities of fewer shown pixels get no prompt.
        augment: how windows vary.
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
        mask_input: (B, P, 1, 4G, 4G) float32 logits of coarse masks; None where no annotator
            draws any.
        has_mask: (B, P) bool, which prompts have one; None likewise.
        practice_coords: (B, Q, N, 2) float32, points to learn moves from; None without practice.
        practice_labels: (B, Q, N) int32; None likewise.
        accurate_coords: (B, Q, N, 2) float32, where an accurate annotator puts them; None likewise.
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
        """The entity of each prompt, (B, P, S, S) bool."""
        groups = self.point_labels.shape[1] // self.masks.shape[1]
        return self.masks.repeat_interleave(groups, dim=1)

    def practice(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates, labels and accurate coordinates of the practice prompts.

        Raises:
            ConfigError: it was drawn without.
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
        self.styles, self.practice_styles = (
            [style.scaled(config.strength) for style in styles]
            for styles in (config.styles, config.practice_styles or config.styles)
        )
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
            training=self._half(samples[:images], rng, self.config.practice),
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

    def _half(
        self, samples: Sequence[Sample], rng: np.random.Generator, practice: int = 0
    ) -> PromptBatch:
        rows = [self._image(sample, rng, practice) for sample in samples][self.part]
        return PromptBatch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})

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

    def _image(self, sample: Sample, rng: np.random.Generator, practice: int) -> dict[str, Tensor]:
        config = self.config
        window, found = self._window(sample, rng)
        chosen = rng.choice(found, config.entities, replace=len(found) < config.entities)
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
            columns |= self._practice(instances, found, practice, rng.spawn(1)[0])
        return {
            "image": window.image,
            **{name: torch.from_numpy(column) for name, column in columns.items()},
        }

    def _practice(
        self,
        instances: NDArray[np.int32],
        found: NDArray[np.int64],
        count: int,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """Prompt any entities of a window, and say where the points should have been."""
        entities = rng.integers(len(found), size=count)
        masks = {i: instances == found[i] for i in np.unique(entities)}
        places = {i: accurate_points(mask) for i, mask in masks.items()}
        styles = rng.integers(len(self.practice_styles), size=count)
        pairs = [(masks[i], self.practice_styles[j]) for i, j in zip(entities, styles, strict=True)]
        coords, labels = _prompts(pairs, rng)
        wanted = [places[i][kinds] for i, kinds in zip(entities, labels, strict=True)]
        return {
            "practice_coords": coords,
            "practice_labels": labels,
            "accurate_coords": np.stack(wanted),
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
