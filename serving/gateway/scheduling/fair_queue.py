"""Fair queueing: a semaphore whose permits are shared evenly by the clients that want them."""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections import Counter
from itertools import count

from serving.gateway.limits import GROUPS

__all__ = ["FairSemaphore"]

SECOND, FURTHER, FIRST = range(3)
"""Rank of a request's turn among the requests of the same client."""
Waiter = tuple[int, int, asyncio.Future[None]]
"""Rank of the turn, arrival number (which breaks ties), and the future that ends the wait."""


class FairSemaphore:
    """Fair semaphore: bounded concurrency; a freed permit goes to the client holding the fewest.

    Among clients that hold equally many, the least recently served goes first; newcomers do not
    overtake waiting clients. The second turn of a request goes before first turns: few requests
    take more than two, and half-done work is lost if it comes too late. Requests of the same client
    are served in order, those that have begun first.

    While more requests wait than permits are free, permits are granted in groups: calls that begin
    together reach the steps of the pipeline together, and share batches there. To be used inside
    one event loop.

    Args:
        permits: how many there are.
        groups: in which they are granted; None grants each at once.
        each: most that one client holds; None is all.

    Attributes:
        permits: how many there are now.
    """

    def __init__(self, permits: int, groups: int | None = GROUPS, each: int | None = None) -> None:
        self.permits = self._free = permits
        self._groups = groups
        self._each = math.inf if each is None else each
        self._held: Counter[str] = Counter()
        self._arrivals = count()
        self._waiters: dict[str, list[Waiter]] = {}
        self._turns = 0
        self._last_turn: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return sum(map(len, self._waiters.values()))

    @property
    def held(self) -> int:
        """Number of permits held."""
        return self.permits - self._free

    @property
    def is_taken(self) -> bool:
        """Whether all permits are held."""
        return self._free <= 0

    def resize(self, permits: int) -> None:
        """Change the number of permits; those held beyond it stay held until they are released."""
        self._free += permits - self.permits
        self.permits = permits
        self._grant()

    def take(self, client: str) -> None:
        """Take a permit now, even if none is free; then the next released one is not granted."""
        self._free -= 1
        self._hold(client)

    async def acquire(self, client: str, turns: int = 0) -> None:
        """Wait for a permit.

        Args:
            client: holder of the permit.
            turns: permits that the same request has held before.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rank = (FIRST, SECOND, FURTHER)[min(turns, 2)]
        waiter = (rank, next(self._arrivals), turn)
        insort(self._waiters.setdefault(client, []), waiter)
        # A new client queues behind all waiting ones, except the one that was served last.
        self._last_turn.setdefault(client, self._turns - 1)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # granted in the same moment
                self.release(client)
            else:
                self._leave(client, waiter)
                self._grant()  # the free permits may now suffice for the others
            raise

    def release(self, client: str) -> None:
        """Give a permit back."""
        self._held[client] -= 1
        self._free += 1
        self._grant()
        self._forget(client)

    def _grant(self) -> None:
        group = 1 if self._groups is None else max(1, self.permits // self._groups)
        if self._free < min(self.waiting, group):
            return
        while self._free > 0 and self._waiters:
            client = min(self._waiters, key=self._priority)
            if self._held[client] >= self._each:
                return
            first = self._waiters[client][0]
            turn = first[-1]
            # A cancelled request has not yet run to leave the queue by itself.
            if not turn.cancelled():
                self._free -= 1
                self._hold(client)
                turn.set_result(None)
            self._leave(client, first)

    def _hold(self, client: str) -> None:
        self._held[client] += 1
        self._turns += 1
        self._last_turn[client] = self._turns

    def _priority(self, client: str) -> tuple[int, bool, int]:
        rank, *_ = self._waiters[client][0]
        return self._held[client], rank != SECOND, self._last_turn[client]

    def _leave(self, client: str, waiter: Waiter) -> None:
        """Remove a waiter from the queue, if it is still there."""
        queue = self._waiters.get(client, [])
        if waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiters[client]
        self._forget(client)

    def _forget(self, client: str) -> None:
        """Drop the state of a client that neither holds nor awaits a permit."""
        if not self._held[client]:
            del self._held[client]
            if client not in self._waiters:
                self._last_turn.pop(client, None)
