"""What is measured in rounds, and under which loads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.capacity.batch_times import Batch
from benchmarks.capacity.stations import StageTimes

__all__ = ["LOADS", "SATURATING", "Load", "Measured", "Round", "answers_a_second"]


@dataclass(frozen=True)
class Load:
    """A load.

    Attributes:
        clients: with one request in flight each; 0 for Poisson arrivals.
        share: of the measured capacity at which requests arrive.
        seconds: of each round.
    """

    clients: int
    share: float
    seconds: float

    @property
    def name(self) -> str:
        """Name of the load in tables."""
        if self.clients:
            return f"{self.clients} clients"
        return f"{self.share:.0%} of the capacity"


SATURATING: Final = Load(16, 0.0, 8.0)
"""The load that measures the capacity."""
LOADS: Final = (SATURATING, Load(4, 0.0, 8.0), Load(0, 0.4, 14.0), Load(0, 0.7, 14.0))


@dataclass
class Round:
    """What one round measured.

    Attributes:
        new: seconds by step of each task alone, with a new image.
        follow_up: the same of follow-ups.
        cores: that each step keeps busy while it computes, by kind of request and step.
        batches: of follow-ups, beside which nothing else ran.
        loads: of each load, the time of arrival, latency, task and kind (1: follow-up) of each
            answered request, and the number of refused ones.
    """

    new: list[dict[str, float]] = field(default_factory=list)
    follow_up: list[dict[str, float]] = field(default_factory=list)
    cores: dict[str, float] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    loads: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Measured:
    """All rounds.

    Attributes:
        rounds: in order.
        stages: how the steps in Triton are configured.
        prompts: number of prompts of each task.
        embedding_bytes: of an image.
        batches: seconds of a batch by step and size, under all loads together.
    """

    rounds: list[Round]
    stages: dict[str, StageTimes]
    prompts: list[int]
    batches: dict[str, dict[int, float]]
    embedding_bytes: int


def answers_a_second(answers: Iterable[Sequence[float]], seconds: float) -> float:
    """Return the answers a second in the span of a load, without those that ended after it.

    Args:
        answers: each begins with its arrival and latency, seconds.
        seconds: of the load.
    """
    return sum(at + latency < seconds for at, latency, *_ in answers) / seconds
