"""Interface of methods: the task that they learn and the fitted method that they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.budget import Budget, Spent
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.scale import Scale
from training.data.augment import AugmentConfig
from training.data.sample import Sample

__all__ = ["Fitted", "Method", "Segment", "Task"]

Segment = Callable[[Sample], list[InstanceMask]]
"""Finds the entities of an image; reads its annotation only where it says so."""


@dataclass(frozen=True)
class Task:
    """Images to learn from; every method sees the same annotations.

    Attributes:
        train: the images of the training classes.
        support: a few images with every class to be found.
        names: those classes.
        tile: side of the squares that images are shown in; 0 shows whole images.
        spread: factor by which training windows are larger or smaller than that at most.
        augment: how training windows vary.
    """

    train: Sequence[Sample]
    support: Sequence[Sample]
    names: tuple[str, ...]
    tile: int = 0
    spread: float = 1.5
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def scale(self) -> Scale:
        """Scale of training windows."""
        return Scale(self.tile or None, self.spread)


@dataclass(frozen=True)
class Fitted:
    """A fitted method.

    Attributes:
        segment: finds entities; `class_index` of a mask counts `Task.names`.
        spent: used part of the budget.
        parameters: number of trained parameters.
    """

    segment: Segment
    spent: Spent = Spent()
    parameters: int = 0


class Method(Protocol):
    """A segmentation method."""

    @property
    def label(self) -> str:
        """Its row's title in tables."""

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Learn a task.

        Args:
            task: images to learn from.
            budget: of training.
            seed: of weights and batches.
        """
