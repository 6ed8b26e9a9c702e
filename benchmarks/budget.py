"""Training of baselines within a budget, by the trainer's loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from training.loop.callbacks import Probe
from training.loop.train_state import Counters
from training.loop.trainer import Budget, Trainer

__all__ = ["Budget", "Spent", "clock_of", "train_within"]

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Spent:
    """Training so far.

    Attributes:
        steps: optimiser steps.
        seconds: as the trainer's clock counts them.
    """

    steps: int = 0
    seconds: float = 0.0


def train_within(
    budget: Budget,
    state: Counters,
    batches: Iterable[Batch],
    train_step: Callable[[Batch, float], Mapping[str, float]],
    device: torch.device,
    probe: Callable[[float], None] = lambda progress: None,
) -> Spent:
    """Train until the budget is used up, counting the steps alone: no batches and no probes.

    A step counts by the CPU time of this process, so that runs in parallel do not take each
    other's time; on a GPU, by wall-clock time.

    Args:
        budget: limits of the training.
        state: counters that `train_step` and the trainer keep.
        batches: as many as are needed, on the device.
        train_step: trains on a batch, counts the step and returns metrics; also gets the progress.
        device: of the computation, which decides the clock.
        probe: called with the progress before every step and at the end.
    """
    trainer = Trainer(
        state,
        train_step,
        budget,
        (Probe(probe),),
        clock=clock_of(device),
        count_steps_alone=True,
    )
    trainer.fit(batches)
    return Spent(state.step, state.elapsed_s)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds: of this process's CPU time, on a GPU of wall-clock time."""
    if device.type == "cpu":
        return time.process_time

    def clock() -> float:
        # Kernels run asynchronously: the clock must not stop before they do.
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
