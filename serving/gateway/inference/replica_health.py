"""Health of one Triton: what passed through its steps, and when it is up or gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

from serving.gateway.inference.triton_responses import DEAD_STEP, UNREACHABLE
from serving.gateway.metrics import Metrics

__all__ = ["ReplicaHealth"]

ROUNDS_AFTER_DEAD_STEP: Final = 5
"""Probes in a row that have to succeed: with one of two instances dead, every other one does."""
PATIENCE_S: Final = 3.0
BUSY_PATIENCE_S: Final = 10.0
SLOWNESS: Final = 3.0
"""Silence that ends patience, in multiples of the slowest recent call through the same steps."""
DECAY: Final = 0.9
"""What a call leaves of the time of a slower one before it."""
LOG = logging.getLogger(__name__)


class ReplicaHealth:
    """State machine of a replica: starting, up or gone; to be used inside one event loop.

    Args:
        address: of the replica, for logs and metrics.
        metrics: shows the state.
        changed: called after each change of `up`.
    """

    def __init__(self, address: str, metrics: Metrics, changed: Callable[[], None]) -> None:
        self._address = address
        self._changed = changed
        self._up_gauge = metrics.replica_up.labels(address)
        self._success_gauge = metrics.replica_success.labels(address)
        self._up_gauge.set(0)
        self._passed: dict[str, float] = {}
        self._slowest_s: dict[str, float] = {}
        self._missing_rounds = 1
        self.up = False
        self.generation = 0
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def is_fresh(self, steps: Iterable[str], within_s: float) -> bool:
        """Return whether inference passed through all of the steps within the last seconds."""
        return self.last_passed(steps) > monotonic() - within_s

    def last_passed(self, steps: Iterable[str]) -> float:
        """Return the time at which inference had passed through all of the steps."""
        return min(self._passed.get(step, 0.0) for step in steps)

    def patience_s(self, steps: Iterable[str], busy: bool) -> float:
        """Return for how long a probe of steps may go unanswered while no call passes through them.

        Args:
            steps: that the probe runs.
            busy: whether calls of requests run, behind which the probe may wait.
        """
        slowest_s = max(self._slowest_s.get(step, 0.0) for step in steps)
        return max(BUSY_PATIENCE_S if busy else PATIENCE_S, SLOWNESS * slowest_s)

    def passed(self, steps: Iterable[str], seconds: float) -> None:
        """Count a call that succeeded in so many seconds."""
        now = monotonic()
        for step in steps:
            self._passed[step] = now
            # By step: many short decodes must not make an encode forgotten that takes seconds.
            self._slowest_s[step] = max(seconds, DECAY * self._slowest_s.get(step, 0.0))
        self._success_gauge.set_to_current_time()

    def probed(self) -> None:
        """Count a round of probes that succeeded."""
        self._missing_rounds -= 1
        if not self.up and self._missing_rounds <= 0:
            LOG.info("Triton at %s is up", self._address)
            self.up = True
            self.generation += 1
            self.gone = asyncio.get_running_loop().create_future()
            self._up_gauge.set(1)
            self._changed()

    def failed(self, cause: str, generation: int | None = None) -> None:
        """Note that the replica cannot answer; its running calls are given up.

        Args:
            cause: in words.
            generation: of the replica when the failed call began; None is the present one. A call
                of an earlier one says nothing about the replica as it is now.
        """
        if generation not in (None, self.generation):
            return
        if cause == DEAD_STEP:
            self._missing_rounds = ROUNDS_AFTER_DEAD_STEP
        elif cause == UNREACHABLE:
            self._missing_rounds = 1  # it is being restarted, with all of its steps
        else:
            self._missing_rounds = max(self._missing_rounds, 1)
        if self.up:
            LOG.warning("Triton at %s is down: %s", self._address, cause)
            self.up = False
            self.gone.set_result(None)
            self._up_gauge.set(0)
            self._changed()
