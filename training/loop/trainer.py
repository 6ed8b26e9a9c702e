"""The training loop of pretraining, bi-level runs and baselines, which differ in `train_step`.

A `Budget` limits it by steps or minutes; `graceful_stop` lets a signal end it after a step.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tqdm import tqdm

from cpcsam.errors import ConfigError
from training.loop.distributed import all_reduce_max, barrier, is_main, process_count
from training.loop.train_state import Counters

__all__ = ["Budget", "Callback", "INTERRUPTED", "Trainer", "graceful_stop"]


@dataclass(frozen=True)
class Budget:
    """Limits of a training run, which ends when either is reached.

    Attributes:
        minutes: training time as the trainer's clock counts it; None sets no limit.
        steps: optimiser steps; None sets no limit.
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

    def progress(self, steps: int, seconds: float) -> float:
        """Return the used share of the budget, by time or by steps, whichever is larger."""
        by_time = seconds / (60 * self.minutes) if self.minutes is not None else 0.0
        return max(by_time, steps / self.steps if self.steps is not None else 0.0)


Batch = TypeVar("Batch")
HIDDEN = ("_gradient", "total", "learning_rate")
"""Parts of the names of metrics that the progress bar leaves out."""


class Callback:
    """Hooks of a `Trainer`; each does nothing unless overridden."""

    def on_train_start(self) -> None:
        """Run before the first step, counted as training time."""

    def on_step_start(self, progress: float) -> None:
        """Run before every step, with the used share of the budget."""

    def on_step_end(self, metrics: Mapping[str, float], *, finished: bool, stopped: bool) -> None:
        """Run after every step.

        Args:
            metrics: of the step, by name.
            finished: the budget is used up.
            stopped: this is the session's last step, for the budget or an interruption.
        """

    def on_train_end(self, *, finished: bool) -> None:
        """Run after the last step."""


@dataclass
class Trainer(Generic[Batch]):
    """Runs training steps until the budget is used up or the run is interrupted.

    Of several processes, all stop at the same step, and the main one alone shows progress.

    Attributes:
        state: counters that are kept up to date; `train_step` counts the steps.
        train_step: trains on a batch at a progress in [0, 1) and returns metrics by name.
        budget: when training ends.
        callbacks: called in this order; what is saved last sees what the ones before changed.
        description: of the progress bar.
        converged: called after every step's callbacks; once true, training ends as if the budget
            were used up. Every process must answer the same.
        clock: seconds, of which `budget.minutes` is a limit.
        count_steps_alone: leave the time between steps out, as for drawing batches or validation.
    """

    state: Counters
    train_step: Callable[[Batch, float], Mapping[str, float]]
    budget: Budget
    callbacks: Sequence[Callback] = ()
    description: str = "train"
    converged: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    count_steps_alone: bool = False

    def fit(
        self, batches: Iterable[Batch], interrupted: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train, from wherever the state is.

        Args:
            batches: from the state's step on.
            interrupted: polled after every step; once true in any process, training stops in all.

        Returns:
            Whether training ended, by its budget or converged; False after an interruption.

        Raises:
            TrainingError: a loss is not finite, or another process is gone.
        """
        state, started = self.state, self.clock()
        for callback in self.callbacks:
            callback.on_train_start()
        # A resumed run may have used up its budget already.
        finished = self.progress >= 1 or self.converged()
        drawn = iter(batches)
        with tqdm(
            total=self.budget.steps,
            initial=state.step,
            desc=self.description,
            unit="step",
            disable=not is_main(),
        ) as bar:
            while not finished:
                for callback in self.callbacks:
                    callback.on_step_start(self.progress)
                batch = next(drawn)
                if self.count_steps_alone:
                    started = self.clock()
                metrics = self.train_step(batch, self.progress)
                now = self.clock()
                # Time decides schedule and end, so all processes must agree on it.
                state.elapsed_s, stop = all_reduce_max(
                    state.elapsed_s + now - started, float(interrupted())
                )
                # From here, time in callbacks counts towards the next step.
                started = now
                bar.update()
                bar.set_postfix(_shown(metrics))
                finished = self.progress >= 1
                stopped = finished or bool(stop)
                for callback in self.callbacks:
                    callback.on_step_end(metrics, finished=finished, stopped=stopped)
                finished = finished or self.converged()
                if stopped:
                    break
        for callback in self.callbacks:
            callback.on_train_end(finished=finished)
        barrier()  # files that were saved can be read by every process that returns
        return finished

    @property
    def progress(self) -> float:
        """Used share of the budget."""
        return self.budget.progress(self.state.step, self.state.elapsed_s)


def _shown(metrics: Mapping[str, float]) -> dict[str, str]:
    return {
        name: f"{value:.3f}"
        for name, value in metrics.items()
        if not any(part in name for part in HIDDEN)
    }


INTERRUPTED: Final = 130
"""Exit code of an interrupted run."""


@contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM has arrived.

    A second signal ends a lone process at once. One of several processes may get the same signal
    twice, from the scheduler and through torchrun, so there a second signal means nothing.
    """
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        received.append(number)
        if process_count() == 1:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
