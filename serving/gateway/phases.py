"""Phases of a request: how its time divides among queues, the steps in Triton and the gateway.

Parts of a request run side by side, such as the chunks of many prompts. While n of them are busy,
each counts for an n-th of the time that passes (processor sharing), so the phases of a request add
up to its time. What remains is the phase `other`: validation, and the gateway's own overhead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Final

__all__ = [
    "DECODE",
    "DECODE_MASKS",
    "ENCODE",
    "OTHER",
    "PHASES",
    "POSTPROCESS",
    "QUEUE",
    "TRITON",
    "PhaseClock",
    "RequestPhases",
]

QUEUE: Final = "queue"
"""Waiting for a turn, in the gateway and in Triton, and the transport between the two."""
DECODE: Final = "decode"
"""Image file to the encoder's frame, reading its header included."""
ENCODE: Final = "encode"
DECODE_MASKS: Final = "decode_masks"
"""Prompts to logits."""
POSTPROCESS: Final = "postprocess"
"""Logits to masks and run lengths, the search for classes, merging, and packing of the answer."""
TRITON: Final = "triton"
"""Calls to a Triton whose repository was published before its steps told their times."""
OTHER: Final = "other"
PHASES: Final = (QUEUE, DECODE, ENCODE, DECODE_MASKS, POSTPROCESS, TRITON, OTHER)


class RequestPhases:
    """Seconds of one request by phase; to be used inside one event loop.

    Args:
        now: clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self._now = now
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._busy = 0
        self._shared_s = 0.0
        self._at = now()

    @contextmanager
    def measure(self, phase: str) -> Iterator[PhaseClock]:
        """Count the time of a block for a phase, but for what its clock has counted for others."""
        clock = PhaseClock(self)
        self._busy += 1
        try:
            yield clock
        finally:
            clock.count({phase: 1})
            self._busy -= 1

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds for a phase."""
        self._seconds[phase] += seconds

    def share_s(self) -> float:
        """Return the seconds that a part which was always busy has got so far."""
        now = self._now()
        if self._busy:
            self._shared_s += (now - self._at) / self._busy
        self._at = now
        return self._shared_s

    def by_phase(self, total_s: float) -> dict[str, float]:
        """Return the seconds of each phase that the request has passed through.

        Args:
            total_s: of the request; what no phase accounts for is `other`.
        """
        known = {phase: seconds for phase, seconds in self._seconds.items() if seconds > 0}
        return known | {OTHER: max(total_s - sum(known.values()), 0.0)}


class PhaseClock:
    """Clock of one part of a request."""

    def __init__(self, phases: RequestPhases) -> None:
        self._phases = phases
        self._counted_s = phases.share_s()

    def count(self, weights: Mapping[str, float]) -> None:
        """Count the part's time since the last call for phases, in proportion to weights."""
        until_s = self._phases.share_s()
        share_s, self._counted_s = until_s - self._counted_s, until_s
        total = sum(weights.values()) or 1.0
        for phase, weight in weights.items():
            self._phases.add(phase, share_s * weight / total)
