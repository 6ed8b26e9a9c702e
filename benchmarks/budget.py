"""Training budgets: how long a run trains, and the loop that keeps to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from tqdm import tqdm

from cpcsam.errors import ConfigError

__all__ = ["Budget", "Spent", "train_within"]

T = TypeVar("T")


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
