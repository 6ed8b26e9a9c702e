"""A number of slots, shared evenly by whoever wants them at the moment."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from itertools import count

from serving.gateway.limits import GROUPS

__all__ = ["FairSemaphore"]

SECOND, FURTHER, FIRST = range(3)
"""Turns of a request, as one client's own are ordered."""
Waiting = tuple[int, int, asyncio.Future[None]]
"""Which turn, a number by which equals are ordered, and what ends the wait."""


class FairSemaphore:
    """At most so many holders at once; a free slot goes to the client that holds the fewest.

    Of clients that hold equally many, the one goes first whose last turn is longest ago; newcomers
    do not overtake those who wait. A request's second turn goes before first ones, for few requests
    take more, and what is half done is lost if it comes too late. One client's own requests are
    served in their order, those that have begun first.

    While more wait than are free, slots are given out a quarter of them at a time: calls that begin
    together reach the steps of the pipeline together, and share batches there. To be used inside
    one event loop.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self._slots = self._free = slots
        self._held: Counter[str] = Counter()
        self._asked = count()
        self._waiting: dict[str, list[Waiting]] = {}
        self._turns = 0
        self._last_turn: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._waiting.values()))

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return self._slots - self._free

    def resize(self, slots: int) -> None:
        """Change how many there are; who holds one too many keeps it."""
        self._free += slots - self._slots
        self._slots = slots
        self._grant()

    async def acquire(self, client: str, turns: int = 0) -> None:
        """Take a slot, sooner or later.

        Args:
            client: who asks.
            turns: that the same request has had before.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        standing = (FIRST, SECOND, FURTHER)[min(turns, 2)]
        waiting = (standing, next(self._asked), turn)
        insort(self._waiting.setdefault(client, []), waiting)
        # A newcomer stands behind all who wait, but for the one who was served last.
        self._last_turn.setdefault(client, self._turns - 1)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # granted in the same moment
                self.release(client)
            else:
                self._leave(client, waiting)
                self._grant()  # what is free may be enough for the others
            raise

    def release(self, client: str) -> None:
        """Give a slot back."""
        self._held[client] -= 1
        self._free += 1
        self._grant()
        self._forget(client)

    def _grant(self) -> None:
        if self._free < min(self.waiting, max(1, self._slots // GROUPS)):
            return
        while self._free > 0 and self._waiting:
            client = min(self._waiting, key=self._rank)
            first = self._waiting[client][0]
            turn = first[-1]
            if not turn.cancelled():
                self._free -= 1
                self._held[client] += 1
                self._turns += 1
                self._last_turn[client] = self._turns
                turn.set_result(None)
            self._leave(client, first)

    def _rank(self, client: str) -> tuple[int, bool, int]:
        standing, *_ = self._waiting[client][0]
        return self._held[client], standing != SECOND, self._last_turn[client]

    def _leave(self, client: str, waiting: Waiting) -> None:
        """Take a request out of the queue, where it may have been already."""
        queue = self._waiting.get(client, [])
        if waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._waiting[client]
        self._forget(client)

    def _forget(self, client: str) -> None:
        """Keep nothing of a client that neither holds nor wants a slot."""
        if not self._held[client]:
            del self._held[client]
            if client not in self._waiting:
                self._last_turn.pop(client, None)
