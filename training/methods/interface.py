"""What every method is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from tqdm import tqdm

from cpcsam.automatic.mask_merging import FoundMask
from cpcsam.errors import ConfigError
from training.data.augment import AugmentConfig
from training.data.sample import Sample

__all__ = ["Budget", "Fitted", "Method", "Segment", "Spent", "Task", "train_within"]

T = TypeVar("T")

Segment = Callable[[Sample], list[FoundMask]]
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
class Budget:
    """How long a method trains: until either limit is reached.

    Attributes:
        minutes: CPU time of this process, so that runs side by side do not rob each other; on a
            GPU, time on the clock. Drawing batches is not counted.
        steps: optimiser steps.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse training without an end."""
        limits = [limit for limit in (self.minutes, self.steps) if limit is not None]
        if not limits or min(limits) <= 0:
            raise ConfigError.of(
                "budget",
                got=f"minutes {self.minutes} and steps {self.steps}",
                expected="at least one of them, above 0",
                fix="set minutes or steps",
            )

    def progress(self, spent: Spent) -> float:
        """Share of the training that is done, by time or by steps, whichever is further."""
        by_time = spent.seconds / (60 * self.minutes) if self.minutes is not None else 0.0
        return max(by_time, spent.steps / self.steps if self.steps is not None else 0.0)


@dataclass(frozen=True)
class Spent:
    """Training so far.

    Attributes:
        steps: optimiser steps.
        seconds: as a budget counts them.
    """

    steps: int = 0
    seconds: float = 0.0


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


def train_within(
    budget: Budget,
    batches: Iterable[T],
    step: Callable[[T, float], None],
    device: torch.device,
    look: Callable[[float], None] = lambda progress: None,
) -> Spent:
    """Take training steps until the budget is spent.

    Args:
        budget: how long.
        batches: as many as are needed, on the device.
        step: trains on a batch; also told the share of the training that is done.
        device: where it computes, which decides the clock.
        look: called before every step, and at the end, with that share; not counted.
    """
    spent, drawn = Spent(), iter(batches)
    with tqdm(desc="train", unit="step", leave=False) as bar:
        while (progress := budget.progress(spent)) < 1:
            look(progress)
            batch = next(drawn)
            started = _clock(device)
            step(batch, progress)
            spent = Spent(spent.steps + 1, spent.seconds + _clock(device) - started)
            bar.update()
    look(1.0)
    return spent


def _clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
