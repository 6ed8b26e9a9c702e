"""Admission control: bounded requests in flight, and fair queueing for Triton and for pixels.

The number of requests in flight is bounded: a request beyond it is refused at once, unless another
client has more of them in flight; then the newest waiting request of that client is dropped
instead. Each call to Triton takes one of few permits, which are shared evenly (`FairSemaphore`),
and so does each image that the gateway decodes; a request that gets none within the queue's time
limit is refused. No client can starve another, by many requests or by a large request. The number
of calls adapts to Triton's speed, so that a call spends less time in Triton's own queues than it
may spend here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from cpcsam.grpc_errors import FullError
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.fair_queue import FairSemaphore

__all__ = ["Admission", "Permit"]

SMOOTHING: Final = 0.1
"""Weight of the newest call in the moving average of call times."""
MIN_RETRY_S: Final = 0.1
TRITON_SHARE: Final = 0.4
"""Fraction of the queue's time limit in which Triton should answer a call."""
CONCURRENT_DECODES: Final = 2
"""Images of which the gateway holds the pixels, as many as Triton's step `preprocess`."""


class Permit:
    """Claim of one request on the gateway's capacity, and its state in the queue.

    Args:
        client: key of fairness: all requests of a client share alike.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.turns = 0
        self._queueing: asyncio.Timeout | None = None

    @property
    def is_waiting(self) -> bool:
        """True while the request waits for its first turn."""
        return self._queueing is not None

    @contextmanager
    def queueing(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Mark the request as waiting while the block runs; `drop` expires the timeout."""
        self._queueing = timeout
        try:
            yield
        finally:
            self._queueing = None

    def drop(self) -> None:
        """End the wait now, as if its time were over."""
        assert self._queueing is not None
        self._queueing.reschedule(asyncio.get_running_loop().time())


class Admission:
    """Admission control of one gateway; to be used inside one event loop."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._calls = FairSemaphore(limits.max_concurrent)
        self._images = FairSemaphore(CONCURRENT_DECODES)
        self._in_flight: dict[str, list[Permit]] = {}
        self._mean_call_s = 0.0

    @contextmanager
    def try_acquire(self, permit: Permit) -> Iterator[None]:
        """Count a request as in flight while the block runs, or refuse it at once.

        Raises:
            FullError: `max_in_flight` is reached.
        """
        if self._count() >= self._limits.max_in_flight:
            self._make_room(permit.client)
        self._in_flight.setdefault(permit.client, []).append(permit)
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._remove(permit)
            self._metrics.in_flight.dec()

    async def acquire(self, permit: Permit) -> Callable[[], None]:
        """Wait for the request's turn to call Triton.

        Returns:
            A function that ends the turn.

        Raises:
            FullError: the request's first turn did not come within `max_queue_s`.
        """
        await self._wait(self._calls, permit)
        started, concurrent = monotonic(), self._calls.held

        def release() -> None:
            # Concurrent calls share Triton: each accounts for its part of the time.
            self._adapt((monotonic() - started) / concurrent)
            self._calls.release(permit.client)

        return release

    async def acquire_image(self, permit: Permit) -> Callable[[], None]:
        """Wait for the request's turn to hold the pixels of an image; see `acquire`."""
        await self._wait(self._images, permit)
        return lambda: self._images.release(permit.client)

    def _adapt(self, call_s: float) -> None:
        """Adapt the number of concurrent calls to Triton's speed (moving average).

        Args:
            call_s: a call's time, divided by the calls that ran when it began.
        """
        weight = SMOOTHING if self._mean_call_s else 1.0
        self._mean_call_s += weight * (call_s - self._mean_call_s)
        fitting = int(TRITON_SHARE * self._limits.max_queue_s / max(self._mean_call_s, 1e-6))
        self._calls.resize(min(max(fitting, 1), self._limits.max_concurrent))

    async def _wait(self, semaphore: FairSemaphore, permit: Permit) -> None:
        if permit.turns:
            # Only the first turn is limited: later ones belong to work that is already paid for.
            await semaphore.acquire(permit.client, permit.turns)
            permit.turns += 1
            return
        limit_s = self._limits.max_queue_s
        try:
            with self._metrics.stage("queue") as waited:
                async with asyncio.timeout(limit_s) as timeout:
                    with permit.queueing(timeout):
                        await semaphore.acquire(permit.client)
        except TimeoutError:
            raise self._full(
                "queue", got=f"no turn within {waited.seconds:.3g} s", expected=f"{limit_s:g} s"
            ) from None
        permit.turns += 1

    def _make_room(self, client: str) -> None:
        """Drop a waiting request of a client with more in flight than this client would have.

        Raises:
            FullError: there is none.
        """
        mine = len(self._in_flight.get(client, ())) + 1
        for permits in sorted(self._in_flight.values(), key=len, reverse=True):
            waiting = [permit for permit in permits if permit.is_waiting]
            if len(permits) > mine and waiting:
                waiting[-1].drop()
                # Now rather than when its task runs, since the newcomer takes its place.
                self._remove(waiting[-1])
                return
        most = self._limits.max_in_flight
        raise self._full("requests in flight", got=f"{most} already", expected=f"fewer than {most}")

    def _remove(self, permit: Permit) -> None:
        permits = self._in_flight.get(permit.client, [])
        if permit in permits:
            permits.remove(permit)
        if not permits:
            self._in_flight.pop(permit.client, None)

    def _count(self) -> int:
        return sum(map(len, self._in_flight.values()))

    def _full(self, what: str, *, got: str, expected: str) -> FullError:
        error = FullError.of(what, got=got, expected=expected, fix="try again in a moment")
        backlog_s = self._mean_call_s * (self._calls.held + self._calls.waiting)
        error.retry_s = min(max(backlog_s, MIN_RETRY_S), self._limits.max_queue_s)
        return error
