"""Systems that classify SAM's proposals by CLIP: OVSeg, OpenSeg, ZegFormer and OVSAM.

SAM's proposals stand for the mask proposals that the publications train. In training, annotated
entities are the regions to name, and shapes of them elsewhere are the unmatched ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.budget import Budget
from benchmarks.comparison.methods.clip.scorers import SCORERS, Scorer
from benchmarks.comparison.methods.clip.towers import (
    ClipConfig,
    RegionBatch,
    SamFeatures,
    Words,
    words_of,
)
from benchmarks.comparison.methods.entities import MIN_AREA
from benchmarks.comparison.methods.fitting import TaskBatches, fit_network, trained_parameters
from benchmarks.comparison.methods.interface import Fitted, Task
from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_generator import AutomaticMaskGenerator
from cpcsam.geometry import Box
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.torch_backend import TorchBackend
from training.bilevel.config import OptimizerConfig
from training.data.augment import window_with_entities
from training.data.sample import Sample
from training.loop.distributed import training_device

__all__ = ["RegionBatches", "RegionMethod", "name_masks"]

MIN_SHOWN: Final = 16
"""Entities of fewer pixels in a window are no regions to learn from."""
COMPACT: Final = MaskGeneratorConfig(
    points_per_side=12,
    pred_iou_thresh=0.4,
    stability_score_thresh=0.4,
    min_mask_region_area=MIN_AREA,
)
"""Of the compact base, none of whose masks is as stable as SAM's thresholds demand."""


@dataclass(frozen=True)
class RegionMethod:
    """A system that names SAM's proposals.

    Attributes:
        label: for tables.
        system: how regions are scored.
        clip: towers and texts.
        base: SAM that proposes masks; it learns nothing.
        image_size: its side S in pixels; null is the base's.
        proposals: grid of clicks and thresholds.
        images: windows a step.
        entities: of a window at most.
        optimizer: `lr_capl` and `lr_points` are unused.
        workers: processes that prepare batches.
    """

    label: str
    system: Literal["ovseg", "openseg", "zegformer", "ovsam"]
    clip: ClipConfig = field(default_factory=ClipConfig)
    base: Path = Path("weights/vit_t")
    image_size: int | None = None
    proposals: MaskGeneratorConfig = COMPACT
    images: int = 2
    entities: int = 4
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-4))
    workers: int = 0

    def with_base(self, base: Path, image_size: int | None) -> RegionMethod:
        """The same system with proposals of another base."""
        return replace(self, base=base, image_size=image_size)

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Train the system's own parameters on the training images; the support set gives names."""
        device = training_device()
        torch.manual_seed(seed)
        towers = self.clip.load(device)
        seen, words = words_of(task, towers, self.clip)
        backend = TorchBackend(load_base(self.base, image_size=self.image_size).to(device))
        scorer = SCORERS[self.system](towers, SamFeatures(backend), seen).to(device)
        batches = RegionBatches(
            task, seen.names, backend.image_size, self.images, self.entities, seed
        )

        def loss_of(batch: RegionBatch) -> Tensor:
            return scorer.loss(batch, seen)

        spent = fit_network(scorer, loss_of, batches, budget, self.optimizer, device, self.workers)
        generator = AutomaticMaskGenerator(backend, self.proposals)

        def segment(sample: Sample) -> list[InstanceMask]:
            return name_masks(generator.generate(sample.image, task.tile), sample, scorer, words)

        return Fitted(segment, spent, trained_parameters(scorer))


def name_masks(
    masks: Sequence[InstanceMask], sample: Sample, scorer: Scorer, words: Words
) -> list[InstanceMask]:
    """Give proposals the likeliest word, and leave those out that are likeliest background.

    Args:
        masks: proposals, each scored in the tile that it was predicted in.
        sample: its image.
        scorer: of regions.
        words: classes to find.

    Returns:
        The named ones, best first by predicted IoU times the word's score.
    """
    of_tile: dict[Box, list[InstanceMask]] = {}
    for mask in masks:
        # Tiles vote on a mask, of which the one that predicted it best may not show a pixel.
        region = mask.tile if mask.in_region(mask.tile).any() else mask.bbox
        of_tile.setdefault(region, []).append(mask)
    named = []
    for tile, group in of_tile.items():
        shown = np.stack([mask.in_region(tile) for mask in group])
        best = scorer.scores(np.ascontiguousarray(tile.crop(sample.image)), shown, words).max(1)
        for mask, score, index in zip(
            group, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            if index < len(words.names):
                named.append(replace(mask, class_index=index, score=mask.score * score))
    return sorted(named, key=lambda mask: -mask.score)


class RegionBatches(TaskBatches[RegionBatch]):
    """Random windows of training images.

    Args:
        task: its training images are used.
        names: classes of the labels.
        side: S of the windows in pixels.
        images: windows a batch.
        entities: of a window at most.
        seed: of all draws.
    """

    def __init__(
        self, task: Task, names: Sequence[str], side: int, images: int, entities: int, seed: int
    ) -> None:
        super().__init__(task, side, images, seed)
        self.names = list(names)
        self.entities = entities

    def batch(self, rng: np.random.Generator) -> RegionBatch:
        """Draw windows and regions of them."""
        windows: list[Tensor] = []
        masks: list[Tensor] = []
        owner: list[int] = []
        labels: list[int] = []
        for place in rng.integers(len(self.task.train), size=self.count):
            image, of_window, of_labels = self._regions(int(place), rng)
            owner += [len(windows)] * len(of_labels)
            windows.append(image)
            masks += of_window
            labels += of_labels
        return RegionBatch(
            torch.stack(windows), torch.stack(masks), torch.tensor(owner), torch.tensor(labels)
        )

    def _regions(
        self, place: int, rng: np.random.Generator
    ) -> tuple[Tensor, list[Tensor], list[int]]:
        """Entities, each one's shape elsewhere, and the whole background."""
        task, sample = self.task, self.task.train[place]
        window, shown = window_with_entities(
            sample, self.image_size, task.scale, task.augment, MIN_SHOWN, rng
        )
        chosen = rng.permutation(shown)[: self.entities]
        background = window.instances == 0
        masks = [window.instances == int(label) for label in chosen]
        labels = [self.names.index(sample.class_of(int(label))) for label in chosen]
        for mask in list(masks):
            down, right = (int(shift) for shift in rng.integers(self.image_size, size=2))
            elsewhere = mask.roll((down, right), (0, 1)) & background
            if 2 * elsewhere.sum() >= mask.sum():
                masks.append(elsewhere)
        if background.any() or not masks:
            masks.append(background if background.any() else ~background)
        return window.image, masks, labels + [len(self.names)] * (len(masks) - len(labels))
