"""Seconds of Triton that a call takes, by kind: moving averages of what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic
from typing import Final

from cpcsam.contract import IMAGE_ENCODER
from cpcsam.entry_points import ENCODE, SEGMENT

__all__ = ["LARGEST_STEP", "OTHER", "CallKind", "CallTimes"]

SMOOTHING: Final = 0.1
"""Weight of the newest call in a moving average; the first ones weigh more, and rare ones."""
MEMORY_S: Final = 10.0
"""Time in which a moving average forgets most, so that rare calls weigh enough."""
LARGEST_STEP: Final = 4.0
"""Largest ratio of a measured time to the expected one that is believed of a single call."""
RISE: Final = 1.05
"""Factor by which each call lets the least time of its kind rise."""
HALF_LIFE_S: Final = 30.0
"""Age of an average at which half of it counts against a request of that kind itself."""
ENCODING: Final = frozenset((SEGMENT.name, ENCODE.name, IMAGE_ENCODER.name))


@dataclass(frozen=True)
class CallKind:
    """Kind of a call to Triton; calls of a kind take about as long as each other.

    Attributes:
        name: of the entry point, or of what it is used for.
        prompts: that are decoded, padded to a bucket.
    """

    name: str
    prompts: int = 0

    @property
    def encodes(self) -> bool:
        """Whether the call runs the image encoder."""
        return self.name in ENCODING


OTHER: Final = CallKind("other")


@dataclass
class _Average:
    seconds: float
    least: float
    updated: float = 0.0
    samples: int = 0


class CallTimes:
    """Moving averages of the seconds of Triton that calls take, each call without the others.

    Calls that run together share Triton: if one takes half as long again as expected of itself and
    of the calls before it, its kind is taken to cost half as much again.
    """

    def __init__(self) -> None:
        self._averages: dict[CallKind, _Average] = {}

    @property
    def is_known(self) -> bool:
        """Whether any call was measured."""
        return bool(self._averages)

    def seconds(self, kind: CallKind) -> float:
        """Return the average of a kind, or of the most similar one; 0 before any was measured."""
        average = self._similar(kind)
        return 0.0 if average is None else average.seconds

    def trial_seconds(self, kind: CallKind, *, alone: bool) -> float:
        """Return what counts against a request of that kind itself.

        Args:
            kind: of its call.
            alone: whether nothing else is to be done; then it is the least time of late, since the
                average may be that of busier moments. It shrinks with its age in either case, so
                that an old one excludes no kind for ever.
        """
        average = self._similar(kind)
        if average is None:
            return 0.0
        seconds = average.least if alone else average.seconds
        return seconds * math.exp2((average.updated - monotonic()) / HALF_LIFE_S)

    def observe(self, kind: CallKind, seconds: float, expected_s: float, together: int) -> None:
        """Learn from a call.

        Args:
            kind: of the call.
            seconds: that it took.
            expected_s: of itself and the calls before it; 0 if unknown.
            together: number of these calls.
        """
        average, similar_s = self._averages.get(kind), self.seconds(kind)
        ratio = min(max(seconds / max(expected_s, 1e-6), 1 / LARGEST_STEP), LARGEST_STEP)
        found_s = similar_s * ratio if similar_s else seconds / together
        if average is None:
            average = self._averages[kind] = _Average(found_s, found_s)
        average.samples += 1
        now = monotonic()
        rare = 1 - math.exp((average.updated - now) / MEMORY_S)
        weight = max(SMOOTHING, 1 / average.samples, rare)
        average.seconds += weight * (found_s - average.seconds)
        average.least = min(average.least * RISE, found_s, average.seconds)
        average.updated = now

    def _similar(self, kind: CallKind) -> _Average | None:
        if kind in self._averages:
            return self._averages[kind]
        alike = [known for known in self._averages if known.name == kind.name]
        nearest = min(
            alike or self._averages,
            key=lambda known: abs(known.prompts - kind.prompts),
            default=None,
        )
        return None if nearest is None else self._averages[nearest]
