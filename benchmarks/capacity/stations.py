"""Queueing stations of a discrete-event simulation: shared processors, and steps with queues.

A processor serves all its jobs at once and evenly (egalitarian processor sharing), as an operating
system does with cores. A station has a first-come-first-served queue before its instances, each of
which takes a batch, as Triton's dynamic batcher does.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import numpy as np
import simpy

from cpcsam.errors import ConfigError

__all__ = ["Capacity", "Processor", "StageTimes", "Station"]

Capacity = float | Mapping[int, float]
"""Of a processor; or by the number of requests in flight, with a straight line between them: a
flow-equivalent server, as what runs together shares caches and threads."""

ROUNDING: Final = 1e-9
"""Relative error of sums of times, within which jobs end together."""


@dataclass(frozen=True)
class StageTimes:
    """How a step of the pipeline works.

    Attributes:
        processor: name of the processor that it computes on; empty for none, a mere delay.
        instances: that work at a time; 0 for as many as there are calls.
        max_batch: calls that an instance takes together.
        cores: of the processor that a call keeps busy.
        delay_s: for which an instance waits for a full batch.
        factors: time of a batch by its size, over the mean time of its calls alone; sizes that are
            missing take the next larger one. Empty: calls of a batch take the sum of their times.

    Raises:
        ConfigError: a number is out of range.
    """

    processor: str = ""
    instances: int = 1
    max_batch: int = 1
    cores: float = 1.0
    delay_s: float = 0.0
    factors: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate the numbers."""
        for name, value, minimum in (
            ("instances", self.instances, 0),
            ("max_batch", self.max_batch, 1),
            ("cores", self.cores, 0),
            ("delay_s", self.delay_s, 0),
            ("largest batch of factors", max(self.factors, default=self.max_batch), self.max_batch),
        ):
            if not value >= minimum:
                raise ConfigError.of(
                    name, got=value, expected=f"at least {minimum}", fix="correct the stage"
                )

    def batch_s(self, seconds: Sequence[float]) -> float:
        """Return the seconds of a batch.

        Args:
            seconds: of each of its calls alone.
        """
        size, total = len(seconds), sum(seconds)
        if not self.factors:
            return total
        return total / size * self.factors[min(each for each in self.factors if each >= size)]


class Processor:
    """Cores, or a GPU, that its jobs share evenly.

    Args:
        env: the simulation.
        capacity: number of cores; 1 for a GPU.
        in_flight: returns the number of requests in flight, on which the capacity may depend.

    Attributes:
        busy_s: core seconds that it has worked.
    """

    def __init__(
        self,
        env: simpy.Environment,
        capacity: Capacity = math.inf,
        in_flight: Callable[[], float] = lambda: 0,
    ) -> None:
        self._env = env
        self._capacity = capacity
        self._in_flight = in_flight
        self._jobs: list[tuple[float, int, float, Callable[[], None]]] = []
        self._numbers = count()
        self._cores = 0.0
        self._progress = 0.0  # seconds that a job would have got that is there since the start
        self._updated = 0.0
        self._rate = 1.0
        self._due = math.inf
        self._wakes = 0
        self.busy_s = 0.0

    def run(self, seconds: float, cores: float, done: Callable[[], None]) -> None:
        """Start a job.

        Args:
            seconds: that it takes while there are cores enough.
            cores: that it keeps busy.
            done: is called at its end.
        """
        self._advance()
        heapq.heappush(self._jobs, (self._progress + seconds, next(self._numbers), cores, done))
        self._cores += cores
        self._schedule()

    def _advance(self) -> None:
        passed = (self._env.now - self._updated) * self._rate
        self._progress += passed
        self.busy_s += passed * self._cores
        self._updated = self._env.now

    def _capacity_now(self) -> float:
        if isinstance(self._capacity, Mapping):
            requests, cores = zip(*self._capacity.items(), strict=True)
            return float(np.interp(self._in_flight(), requests, cores))
        return self._capacity

    def _schedule(self) -> None:
        """Wake at the end of the first job, as far as is known now."""
        self._rate = min(1.0, self._capacity_now() / self._cores) if self._cores else 1.0
        left = max(self._jobs[0][0] - self._progress, 0.0) / self._rate
        due = self._env.now + left
        if due == self._due:
            return
        self._due = due
        self._wakes += 1
        number = self._wakes
        wake = simpy.Timeout(self._env, left)
        assert wake.callbacks is not None
        wake.callbacks.append(lambda _: self._wake(number))

    def _wake(self, number: int) -> None:
        if number != self._wakes:  # another job came or ended meanwhile
            return
        self._advance()
        self._due = math.inf
        until = self._jobs[0][0] * (1 + ROUNDING)
        ended = []
        while self._jobs and self._jobs[0][0] <= until:
            *_, cores, done = heapq.heappop(self._jobs)
            self._cores -= cores
            ended.append(done)
        if self._jobs:
            self._schedule()
        else:
            self._cores = 0.0
        for done in ended:
            done()


class Station:
    """A step with a queue before its instances.

    Args:
        env: the simulation.
        times: how it works.
        processor: that its instances compute on.

    Attributes:
        busy_s: seconds that its instances were busy, all together.
        batches: executed so far.
        calls: in these batches.
    """

    def __init__(self, env: simpy.Environment, times: StageTimes, processor: Processor) -> None:
        self._env = env
        self._times = times
        self._processor = processor
        self._free = times.instances or math.inf
        self._queue: deque[tuple[float, float, simpy.Event]] = deque()
        self.busy_s = 0.0
        self.batches = self.calls = 0

    def run(self, seconds: float) -> simpy.Event:
        """Queue a call.

        Args:
            seconds: that it takes alone.

        Returns:
            An event that happens at its end.
        """
        done = simpy.Event(self._env)
        self._queue.append((self._env.now, seconds, done))
        self._start()
        return done

    def _start(self) -> None:
        while self._free and self._queue:
            size = min(len(self._queue), self._times.max_batch)
            waits_s = self._queue[0][0] + self._times.delay_s - self._env.now
            if size < self._times.max_batch and waits_s > ROUNDING:
                timeout = simpy.Timeout(self._env, waits_s)
                assert timeout.callbacks is not None
                timeout.callbacks.append(lambda _: self._start())
                return
            self._execute([self._queue.popleft() for _ in range(size)])

    def _execute(self, batch: list[tuple[float, float, simpy.Event]]) -> None:
        started = self._env.now
        self._free -= 1

        def end() -> None:
            self._free += 1
            self.busy_s += self._env.now - started
            self.batches += 1
            self.calls += len(batch)
            self._start()
            for *_, done in batch:
                done.succeed()

        lasts = self._times.batch_s([seconds for _, seconds, _ in batch])
        self._processor.run(lasts, self._times.cores, end)
