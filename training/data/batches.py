"""Training batches: windows of two half-batches, and K prompt groups for every entity."""

from __future__ import annotations

from collections.abc import Sequence
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
from cpcsam.scale import Scale
from training.data.augment import AugmentConfig, Window, window_with_entities
from training.data.prompt_batch import Halves, PromptBatch
from training.data.prompt_sampling import PromptMix, accurate_points, coarse_mask, sample_prompt
from training.data.sample import Sample

__all__ = ["ACCURATE_STYLE", "GROUP_STYLES", "BatchConfig", "StepBatches"]

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

ACCURATE_STYLE = PromptMix(box=0.5, several=0.0, centre=1.0, box_jitter=0.0)
"""A careful annotator: a tight box or a click in the centre."""


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
        practice_accurate: share of them that is accurate, half of these central clicks and half
            tight boxes, from which point calibration learns to leave such prompts alone.
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
    practice_accurate: float = 0.4
    min_area: int = 40
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Refuse batches without images, entities or prompts."""
        for name in ("images", "entities", "groups", "min_area"):
            require_range(f"batch.{name}", getattr(self, name), 1)
        require_range("batch.strength", self.strength, 0)
        require_range("batch.practice", self.practice, 0)
        require_range("batch.practice_accurate", self.practice_accurate, 0, 1)
        if not self.styles:
            raise ConfigError.of(
                "batch.styles", got="none", expected="one or more", fix="say how groups annotate"
            )


class StepBatches(Dataset[Halves]):
    """Deterministic batches: the seed and i alone decide step i, so that a killed run can resume.

    The two halves come from different samples if there are enough. Each of several processes draws
    the whole batch and keeps its own slice of either half. With `held_out=False`, for a run without
    φ, the held-out half is not drawn: it is the training half.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: int,
        config: BatchConfig,
        scale: Scale,
        *,
        seed: int,
        steps: int,
        rank_slice: slice = slice(None),
        held_out: bool = True,
    ) -> None:
        self.samples = samples
        self.held_out = held_out
        self.image_size = image_size
        self.config = config
        self.scale = scale
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
        training = self._half(samples[:images], rng, self.config.practice)
        return Halves(training, self._half(samples[images:], rng) if self.held_out else training)

    def _with_entities(self, drawn: list[int], rng: np.random.Generator) -> list[Sample]:
        """Read samples; replace each without an entity by another, preferably unused, sample."""
        samples = [self.samples[i] for i in drawn]
        spare: list[int] | None = None
        for place, sample in enumerate(samples):
            while not sample.instances.any():
                if spare is None:
                    # Sorted, so that batches do not depend on the order of a set.
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
        # Sliced after drawing: every rank must use up the same random numbers.
        rows = [self._image(sample, rng, practice) for sample in samples][self.rank_slice]
        return PromptBatch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[Window, NDArray[np.int64]]:
        """Cut a window that shows an entity; try other samples if its own are too small."""
        config, first = self.config, sample.name
        for _ in range(SAMPLE_ATTEMPTS):
            for _ in range(WINDOW_ATTEMPTS if sample.instances.any() else 0):
                window, labels = window_with_entities(
                    sample, self.image_size, self.scale, config.augment, config.min_area, rng
                )
                if len(labels):
                    return window, labels
            sample = self.samples[int(rng.integers(len(self.samples)))]
        raise DataError.of(
            f"sample {first}",
            got=f"no entity of {config.min_area} shown pixels in {WINDOW_ATTEMPTS} windows, nor "
            f"in those of {SAMPLE_ATTEMPTS - 1} others",
            expected="entities large enough to be prompted",
            fix="lower batch.min_area, or scale.window to show entities larger",
        )

    def _image(self, sample: Sample, rng: np.random.Generator, practice: int) -> dict[str, Tensor]:
        config = self.config
        window, labels = self._window(sample, rng)
        chosen = rng.choice(labels, config.entities, replace=len(labels) < config.entities)
        instances = window.instances.numpy()
        masks = instances == chosen[:, None, None]
        # By entity, then group: `PromptBatch` expects the groups of an entity next to each other.
        pairs = [(mask, style) for mask in masks for style in self._styles(rng)]
        coords, point_labels = _prompts(pairs, rng)
        columns = {"masks": masks, "point_coords": coords, "point_labels": point_labels}
        if self.draws_masks:
            side = LOW_RES_FACTOR * self.image_size // PATCH_SIZE
            # Drawn for every prompt, as columns are rectangular; `has_mask` says which count.
            columns["mask_input"] = np.stack(
                [coarse_mask(mask, style, side, rng) for mask, style in pairs]
            )
            columns["has_mask"] = np.array([rng.random() < style.mask for _, style in pairs])
        if practice:
            # A generator of its own, so that practice prompts leave all other draws as they are.
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
        accurate = rng.random(count) < self.config.practice_accurate
        pairs = [
            (masks[i], ACCURATE_STYLE if right else self.practice_styles[j])
            for i, j, right in zip(entities, styles, accurate, strict=True)
        ]
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
        got=f"{images} images without an entity" if images else "no image of these classes",
        expected="at least one annotated entity",
        fix="give other images, another region or other classes, or data.train.crowds=true",
    )
