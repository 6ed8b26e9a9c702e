"""Episodes of few-shot learning: one class, an image that shows it and another to segment.

Episodes are drawn from `Task.train` alone, whose annotations are of the training classes; images
and classes of the support set are for the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison.methods.fitting import TaskBatches
from benchmarks.comparison.methods.interface import Task
from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.tiling import tile_boxes
from cpcsam.errors import DataError
from cpcsam.geometry import Box
from cpcsam.transforms import to_frame
from training.data.augment import random_window
from training.data.sample import Sample

__all__ = ["Draw", "EpisodeBatch", "EpisodeBatches", "Shots", "shots_of"]

TRIES: Final = 10
"""Windows, or images, that are looked at for a class before one without it is taken."""
SHOWN: Final = 64
"""Pixels of the class from which on a window shows it."""


@dataclass(frozen=True)
class EpisodeBatch:
    """Episodes of one support image each.

    Attributes:
        query: (B, 3, S, S) uint8.
        query_masks: (B, S, S) bool, the class.
        support: (B, 3, S, S) uint8.
        support_masks: (B, S, S) bool, the class.
    """

    query: Tensor
    query_masks: Tensor
    support: Tensor
    support_masks: Tensor

    def to(self, device: torch.device) -> EpisodeBatch:
        """The same batch on a device."""
        return EpisodeBatch(*(one.to(device) for one in vars(self).values()))


@dataclass(frozen=True)
class Draw:
    """An episode's class and images of `Task.train`."""

    name: str
    query: Sample
    support: Sample


class EpisodeBatches(TaskBatches[EpisodeBatch]):
    """Random episodes of a task's training images, and of nothing else."""

    def batch(self, rng: np.random.Generator) -> EpisodeBatch:
        """Draw episodes."""
        rows = []
        for _ in range(self.count):
            drawn = self.draw(rng)
            windows = [self._window(one, drawn.name, rng) for one in (drawn.query, drawn.support)]
            rows.append((*windows[0], *windows[1]))
        return EpisodeBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def draw(self, rng: np.random.Generator) -> Draw:
        """Draw an image, a class of it, and another image of this class.

        The support is the query's own image, in a window of its own, where no other was found.

        Raises:
            DataError: no training image that was looked at has an entity.
        """
        train = self.task.train
        places = rng.permutation(len(train))
        for place in places:
            query = train[int(place)]
            names = sorted(_classes(query))
            if names:
                break
        else:
            raise DataError.of(
                "training images",
                got="none with an entity",
                expected="entities of training classes",
                fix="give annotated images",
            )
        name = names[rng.integers(len(names))]
        others = rng.permutation(places[places != place])[:TRIES]
        support = next((one for i in others if name in _classes(one := train[int(i)])), query)
        return Draw(name, query, support)

    def _window(self, sample: Sample, name: str, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.tensor(_labels(sample, name))
        for _ in range(TRIES):
            window = random_window(sample, self.image_size, self.task.scale, self.task.augment, rng)
            mask = torch.isin(window.instances, labels)
            if mask.sum() >= SHOWN:
                break
        return window.image, mask


@dataclass(frozen=True)
class Shots:
    """Support images of a class.

    Attributes:
        images: (K, 3, S, S) uint8.
        masks: (K, S, S) bool, the class.
    """

    images: Tensor
    masks: Tensor


def shots_of(task: Task, name: str, image_size: int, shots: int, seed: int) -> Shots:
    """Choose support images of a class, each by the tile that shows most of it.

    Args:
        task: its support set is used.
        name: of the class, which some image of the support set shows.
        image_size: S in pixels.
        shots: K at most.
        seed: of the order in which images are taken.

    Raises:
        DataError: no image of the support set shows the class.
    """
    order = np.random.default_rng(seed).permutation(len(task.support))
    rows: list[tuple[Tensor, Tensor]] = []
    for place in order:
        sample = task.support[int(place)]
        mask = np.isin(sample.instances, _labels(sample, name))
        if mask.any() and len(rows) < shots:
            rows.append(_shot(sample, mask, task.tile, image_size))
    if not rows:
        raise DataError.of(
            f"support set of {name}",
            got="no entity",
            expected="at least one",
            fix="annotate one, or leave the class out",
        )
    images, masks = zip(*rows, strict=True)
    return Shots(torch.stack(images), torch.stack(masks))


def _shot(
    sample: Sample, mask: NDArray[np.bool_], tile: int, image_size: int
) -> tuple[Tensor, Tensor]:
    tiles = tile_boxes(sample.size, tile, ClassSearchConfig().overlap)

    def area(part: Box) -> int:
        return int(part.crop(mask).sum())

    best = max(tiles, key=area)
    frame, (height, width) = to_frame(best.crop(sample.image), image_size)
    inside = torch.from_numpy(best.crop(mask).astype(np.float32))[None, None]
    resized = F.interpolate(inside, (height, width), mode="nearest")[0, 0] > 0
    padded = F.pad(resized, (0, image_size - width, 0, image_size - height))
    return torch.from_numpy(frame), padded


def _classes(sample: Sample) -> set[str]:
    return {sample.class_of(int(label)) for label in np.unique(sample.instances) if label}


def _labels(sample: Sample, name: str) -> list[int]:
    """Labels of a class's entities."""
    labels = np.unique(sample.instances).tolist()
    return [label for label in labels if label and sample.class_of(label) == name]
