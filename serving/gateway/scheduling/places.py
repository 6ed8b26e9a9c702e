"""Places: bounded requests in flight, refused or waiting beyond that, fair between clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.fair_queue import FairSemaphore
from serving.gateway.scheduling.permit import Permit
from serving.gateway.scheduling.refusals import Refusal

__all__ = ["Places"]


class Places:
    """Places of the requests in flight; to be used inside one event loop.

    Args:
        count: number of places.
        metrics: shows how many are taken.
        refuse: makes the error of a request that finds none.
        leave: is called for each permit whose place is free again.
    """

    def __init__(
        self,
        count: int,
        metrics: Metrics,
        refuse: Callable[[], Refusal],
        leave: Callable[[Permit], None],
    ) -> None:
        self._free = FairSemaphore(count, groups=None)
        self._metrics = metrics
        self._refuse = refuse
        self._leave = leave
        self._permits: dict[str, list[Permit]] = {}

    @contextmanager
    def try_take(self, permit: Permit) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            FullError: there is none, and no other client holds more of them.
        """
        if self._free.is_taken:
            self._make_room(permit.client)
        else:
            self._free.take(permit.client)
        with self._hold(permit):
            yield

    @asynccontextmanager
    async def wait(self, permit: Permit) -> AsyncIterator[None]:
        """Wait for a place and hold it while the block runs."""
        await self._free.acquire(permit.client)
        with self._hold(permit):
            yield

    def _make_room(self, client: str) -> None:
        """Give a client the place of a waiting request of another one with more in flight.

        Raises:
            FullError: there is none.
        """
        mine = len(self._permits.get(client, ())) + 1
        for permits in sorted(self._permits.values(), key=len, reverse=True):
            waiting = [permit for permit in permits if permit.is_waiting]
            if len(permits) > mine and waiting:
                self._free.take(client)
                waiting[-1].drop()
                # Now rather than when its task runs, since the newcomer takes its place.
                self._remove(waiting[-1])
                return
        raise self._refuse()

    @contextmanager
    def _hold(self, permit: Permit) -> Iterator[None]:
        self._permits.setdefault(permit.client, []).append(permit)
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._remove(permit)
            self._leave(permit)
            self._metrics.in_flight.dec()

    def _remove(self, permit: Permit) -> None:
        permits = self._permits.get(permit.client, [])
        # A dropped request has lost its place before.
        if permit not in permits:
            return
        permits.remove(permit)
        if not permits:
            del self._permits[permit.client]
        self._free.release(permit.client)
