"""How many requests are worked on, whose turn it is, and who is refused.

Every request in work has a place; there are so many, and one more is refused at once. Where a
client has taken more than others, its newest request that still waits makes room for theirs. Each
call to Triton takes one of few slots, which are shared evenly, as does each image that the gateway
decodes; a request that gets none within the queue's time limit is refused. So none can starve
another, by many requests or by a large one. Where Triton is slow, it gets fewer calls at once, so
that they spend less time in its own queues than they may in this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from cpcsam.grpc_errors import FullError
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.fair_queue import FairSemaphore

__all__ = ["Admission", "Permit"]

LEARNING_RATE = 0.1
SHORTEST_RETRY_S = 0.1
AT_TRITON = 0.4
"""Part of the queue's time limit in which Triton should answer a call."""
DECODED_AT_ONCE = 2
"""Images of which the gateway holds the pixels, as many as Triton's step `preprocess`."""


class Permit:
    """A request that asks for a place.

    Args:
        client: whoever is to get an even share.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.turns = 0
        self._queueing: asyncio.Timeout | None = None

    @property
    def waits(self) -> bool:
        """Whether it stands in the queue for its first slot."""
        return self._queueing is not None

    @contextmanager
    def queueing(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Stand in the queue; the timeout is what ends that early."""
        self._queueing = timeout
        try:
            yield
        finally:
            self._queueing = None

    def drop(self) -> None:
        """Give up its place in the queue."""
        assert self._queueing is not None
        self._queueing.reschedule(asyncio.get_running_loop().time())


class Admission:
    """Admits the requests of one gateway; to be used inside one event loop."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._calls = FairSemaphore(limits.max_concurrent)
        self._images = FairSemaphore(DECODED_AT_ONCE)
        self._places: dict[str, list[Permit]] = {}
        self._each_s = 0.0

    @contextmanager
    def try_acquire(self, permit: Permit) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            FullError: there is none.
        """
        if self._count() >= self._limits.max_in_flight:
            self._make_room(permit.client)
        self._places.setdefault(permit.client, []).append(permit)
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._give_up(permit)
            self._metrics.in_flight.dec()

    async def acquire(self, permit: Permit) -> Callable[[], None]:
        """Take a slot for a call to Triton.

        Returns:
            What gives the slot back.

        Raises:
            FullError: the request's first slot did not come in time.
        """
        await self._take(self._calls, permit)
        started, together = monotonic(), self._calls.held

        def release() -> None:
            self._learn((monotonic() - started) / together)
            self._calls.release(permit.client)

        return release

    def _learn(self, each_s: float) -> None:
        """Give Triton as many calls as it answers in a part of the queue's time limit.

        Args:
            each_s: a call's time, shared by the calls that were in work when it began.
        """
        self._each_s += (LEARNING_RATE if self._each_s else 1.0) * (each_s - self._each_s)
        fitting = int(AT_TRITON * self._limits.max_queue_s / max(self._each_s, 1e-6))
        self._calls.resize(min(max(fitting, 1), self._limits.max_concurrent))

    async def acquire_image(self, permit: Permit) -> Callable[[], None]:
        """Take a slot for the pixels of an image; see `call`."""
        await self._take(self._images, permit)
        return lambda: self._images.release(permit.client)

    async def _take(self, slots: FairSemaphore, permit: Permit) -> None:
        if permit.turns:
            await slots.acquire(permit.client, permit.turns)
            permit.turns += 1
            return
        limit_s = self._limits.max_queue_s
        try:
            with self._metrics.stage("queue") as waited:
                async with asyncio.timeout(limit_s) as timeout:
                    with permit.queueing(timeout):
                        await slots.acquire(permit.client)
        except TimeoutError:
            raise self._full(
                "queue", got=f"no turn within {waited.seconds:.3g} s", expected=f"{limit_s:g} s"
            ) from None
        permit.turns += 1

    def _make_room(self, client: str) -> None:
        """Drop a request of a client that has more places than this one would have."""
        mine = len(self._places.get(client, ())) + 1
        for places in sorted(self._places.values(), key=len, reverse=True):
            waiting = [permit for permit in places if permit.waits]
            if len(places) > mine and waiting:
                waiting[-1].drop()
                self._give_up(waiting[-1])
                return
        most = self._limits.max_in_flight
        raise self._full("requests in work", got=f"{most} already", expected=f"fewer than {most}")

    def _give_up(self, permit: Permit) -> None:
        places = self._places.get(permit.client, [])
        if permit in places:
            places.remove(permit)
        if not places:
            self._places.pop(permit.client, None)

    def _count(self) -> int:
        return sum(map(len, self._places.values()))

    def _full(self, what: str, *, got: str, expected: str) -> FullError:
        error = FullError.of(what, got=got, expected=expected, fix="try again in a moment")
        ahead_s = self._each_s * (self._calls.held + self._calls.waiting)
        error.retry_s = min(max(ahead_s, SHORTEST_RETRY_S), self._limits.max_queue_s)
        return error
