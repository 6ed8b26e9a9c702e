"""Callbacks of a `Trainer`: TensorBoard, periodic validation and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from training.loop.distributed import is_main
from training.loop.train_state import Counters, TrainState
from training.loop.trainer import Callback

__all__ = ["Checkpoints", "Probe", "TensorBoard", "Validation"]


@dataclass
class TensorBoard(Callback):
    """Logs metrics to TensorBoard.

    Attributes:
        writer: None logs nothing, as in all processes but the main one.
        state: holds the step.
        every: steps between logged ones.
    """

    writer: SummaryWriter | None
    state: Counters
    every: int = 1

    def log(self, metrics: Mapping[str, float]) -> None:
        """Write metrics at the current step."""
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, self.state.step)

    def on_step_end(self, metrics: Mapping[str, float], *, finished: bool, stopped: bool) -> None:
        """Log a step's metrics."""
        if self.state.step % self.every == 0:
            self.log(metrics)


@dataclass
class Validation(Callback):
    """Validates periodically.

    Attributes:
        validate: scores the model, and keeps it if it is the best.
        state: holds the step.
        every: steps between validations.
        at_end: validate after the last step too, and not otherwise.
    """

    validate: Callable[[], None]
    state: Counters
    every: int
    at_end: bool = True

    def on_step_end(self, metrics: Mapping[str, float], *, finished: bool, stopped: bool) -> None:
        """Validate if it is due."""
        if self.at_end if finished else self.state.step % self.every == 0:
            self.validate()


@dataclass
class Checkpoints(Callback):
    """Saves the training state periodically and at the end of a session, in the main process.

    Attributes:
        path: the file.
        state: what is saved.
        record: as `TrainState.save`.
        every: steps between checkpoints.
    """

    path: Path
    state: TrainState
    record: Mapping[str, Any]
    every: int

    def on_step_end(self, metrics: Mapping[str, float], *, finished: bool, stopped: bool) -> None:
        """Save if it is due."""
        self._save(due=self.state.step % self.every == 0)

    def on_train_end(self, *, finished: bool) -> None:
        """Save the last step, which may have ended training between two saves."""
        self._save(due=self.state.step % self.every != 0)

    def _save(self, *, due: bool) -> None:
        if due and is_main():
            self.state.save(self.path, self.record)


@dataclass
class Probe(Callback):
    """Calls a function before every step and at the end, with the used share of the budget."""

    function: Callable[[float], None]

    def on_step_start(self, progress: float) -> None:
        """Call the function."""
        self.function(progress)

    def on_train_end(self, *, finished: bool) -> None:
        """Call the function with 1."""
        self.function(1.0)
