"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.budget import Budget, Spent
from cpcsam.automatic.instance_mask import InstanceMask
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
        augment: how training windows vary.
    """

    train: Sequence[Sample]
    support: Sequence[Sample]
    names: tuple[str, ...]
    tile: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class Fitted:
    """A method that has learned.

    Attributes:
        segment: finds entities; `class_index` of a mask counts `Task.names`.
        spent: of the budget.
        parameters: how many learned.
    """

    segment: Segment
    spent: Spent = Spent()
    parameters: int = 0


class Method(Protocol):
    """One way to segment."""

    @property
    def label(self) -> str:
        """Its row's title in tables."""

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Learn a task.

        Args:
            task: what to learn from.
            budget: how long.
            seed: decides weights and batches.
        """
