"""Queue of the calls to Triton: running or claimed by requests, with their times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Final

from serving.gateway.limits import Limits
from serving.gateway.scheduling.call_times import LARGEST_STEP, CallKind, CallTimes
from serving.gateway.scheduling.fair_queue import FairSemaphore

__all__ = ["CallQueue", "Outlook"]

SMOOTHING: Final = 0.1
"""Weight of the newest call in the moving average of call times."""
TRITON_SHARE: Final = 0.1
"""Fraction of the queue's time limit in which Triton should answer a call: what waits there waits
in order, whoever sent it."""
LEAST_CALLS: Final = 2
"""So that one call can be prepared while another runs."""
STILL_S: Final = 1.0
"""Least time without an answer that tells of a fault."""
CALLS_AT_ONCE: Final = 4
"""Calls of one request that run at once, about."""


@dataclass(frozen=True)
class Outlook:
    """Expected times of a request in one queue, seconds.

    Attributes:
        wait_s: until its first turn.
        ahead_s: of calls of other requests that are done before its own are.
        own_s: of its own calls.
    """

    wait_s: float
    ahead_s: float
    own_s: float


class CallQueue:
    """Fair queue of calls that share one part of Triton; to be used inside one event loop.

    Attributes:
        turns: grants the turns; as many at a time as Triton answers in a part of the time that a
            request may wait.
        times: measured times of calls.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.turns = FairSemaphore(limits.max_concurrent)
        self.times = CallTimes()
        self._running: Counter[CallKind] = Counter()
        self._together: dict[int, tuple[float, Counter[CallKind]]] = {}
        self._numbers = count()
        self._claimed: dict[str, Counter[CallKind]] = {}
        self._busy_since = self._mean_call_s = 0.0

    @property
    def running_s(self) -> float:
        """Seconds of Triton that the running calls take."""
        return self._seconds(self._running)

    @property
    def stands_still(self) -> bool:
        """Whether calls take so much longer than expected that Triton rather has a fault."""
        passed_s, expected_s = self._oldest()
        return passed_s > max(LARGEST_STEP * expected_s, STILL_S) and self.times.is_known

    @property
    def mean_s(self) -> float:
        """Mean seconds of the calls that run or are claimed; 0 without any."""
        calls = self._running + sum(self._claimed.values(), Counter())
        return self._seconds(calls) / max(calls.total(), 1)

    @property
    def runs(self) -> bool:
        """Whether any call runs."""
        return bool(self._running.total())

    @property
    def is_busy(self) -> bool:
        """Whether any call runs or is claimed."""
        return bool(self.runs or self._claimed)

    @property
    def is_cold(self) -> bool:
        """Whether a call runs or is claimed that is the first to tell how long calls take."""
        return self.is_busy and not self.times.is_known

    @property
    def cold_s(self) -> float:
        """Seconds since the first of the running calls began; 0 if none does."""
        return monotonic() - self._busy_since if self.runs else 0.0

    def backlog_s(self) -> float:
        """Seconds of Triton that the running and the claimed calls take."""
        return self.running_s + sum(map(self._seconds, self._claimed.values()))

    def claim(self, client: str, kind: CallKind, calls: int) -> None:
        """Count calls that a client's request is going to make; a negative number takes back."""
        claimed = self._claimed.setdefault(client, Counter())
        claimed[kind] += calls
        if not claimed[kind]:
            del claimed[kind]
        if not claimed:
            del self._claimed[client]

    def outlook(self, client: str, calls: Mapping[CallKind, int], *, alone: bool) -> Outlook:
        """Predict the times of a further request.

        Each other client's calls count up to as much as this client's own, since turns are shared
        evenly. A request of many calls waits for the running ones of others again and again.

        Args:
            client: that sends the request.
            calls: number of calls by kind, of this queue.
            alone: whether nothing else is to be done.
        """
        cost_s = self._seconds(calls)
        mine_s = self._seconds(self._claimed.get(client, {}))
        share_s = mine_s + cost_s
        queued_s = mine_s + sum(
            min(self._seconds(claimed), share_s)
            for other, claimed in self._claimed.items()
            if other != client
        )
        running_s = self.running_s
        slowness = self._slowness()
        rounds = -(-sum(calls.values()) // CALLS_AT_ONCE)
        # What is ahead beyond the permits must end before this request gets one.
        waiting = queued_s / max(self.mean_s, 1e-6) + self._running.total()
        beyond = max(0.0, 1 - self.turns.permits / waiting) if waiting else 0.0
        return Outlook(
            wait_s=(queued_s + running_s) * beyond * slowness,
            ahead_s=(queued_s + running_s * rounds) * slowness,
            own_s=self.trial_seconds(calls, alone=alone),
        )

    def trial_seconds(self, calls: Mapping[CallKind, int], *, alone: bool) -> float:
        """Seconds that calls take by themselves; see `CallTimes.trial_seconds`."""
        return sum(
            self.times.trial_seconds(kind, alone=alone) * count for kind, count in calls.items()
        )

    def start(self, kind: CallKind) -> Callable[[bool | None], None]:
        """Count a call that has got its turn as running.

        Returns:
            A function that ends it, and learns from the time it took: all if it was answered, else
            only that it takes longer than expected, and nothing if Triton could not answer (None).
        """
        if not self.runs:
            self._busy_since = monotonic()
        self._running[kind] += 1
        started, together = monotonic(), self._running.copy()
        number = next(self._numbers)
        self._together[number] = started, together

        def end(is_answered: bool | None) -> None:
            seconds, calls, expected_s = (
                monotonic() - started,
                together.total(),
                self._seconds(together),
            )
            self._running[kind] -= 1
            for older in [each for each in self._together if each <= number]:
                del self._together[older]  # a call that others overtake is slow by itself
            if is_answered or (is_answered is False and seconds > expected_s > 0):
                self.times.observe(kind, seconds, expected_s, calls)
                self._adapt(seconds / calls)

        return end

    def _adapt(self, call_s: float) -> None:
        """Adapt the number of concurrent calls to Triton's speed (moving average).

        Args:
            call_s: a call's time, divided by the calls that ran when it began.
        """
        weight = SMOOTHING if self._mean_call_s else 1.0
        self._mean_call_s += weight * (call_s - self._mean_call_s)
        fitting = int(TRITON_SHARE * self._limits.max_queue_s / max(self._mean_call_s, 1e-6))
        most = self._limits.max_concurrent
        self.turns.resize(min(max(fitting, LEAST_CALLS), most))

    def _slowness(self) -> float:
        """Return how many times as long as expected calls take now, as far as that is believed."""
        passed_s, expected_s = self._oldest()
        return min(max(1.0, passed_s / max(expected_s, 1e-3)), LARGEST_STEP)

    def _oldest(self) -> tuple[float, float]:
        """Return for how long the oldest call runs that none overtook, and the expected time."""
        if not self._together:
            return 0.0, 0.0
        started, together = next(iter(self._together.values()))
        return monotonic() - started, self._seconds(together)

    def _seconds(self, calls: Mapping[CallKind, int]) -> float:
        return sum(self.times.seconds(kind) * count for kind, count in calls.items())
