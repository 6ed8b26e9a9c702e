"""The training loop of pretraining, bi-level runs and baselines, which differ in `train_step`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from training.loop.budget import Budget
from training.loop.distributed import all_reduce_max, barrier, is_main
from training.loop.train_state import Counters

__all__ = ["Callback", "Trainer"]

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
        clock: seconds, of which `budget.minutes` is a limit.
        count_steps_alone: leave the time between steps out, as for drawing batches or validation.
    """

    state: Counters
    train_step: Callable[[Batch, float], Mapping[str, float]]
    budget: Budget
    callbacks: Sequence[Callback] = ()
    description: str = "train"
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
            Whether the budget is used up; False after an interruption.

        Raises:
            TrainingError: a loss is not finite, or another process is gone.
        """
        state, started = self.state, self.clock()
        for callback in self.callbacks:
            callback.on_train_start()
        # A resumed run may have used up its budget already.
        finished = self.progress >= 1
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
