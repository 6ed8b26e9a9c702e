"""A number of slots, shared evenly by whoever wants them at the moment."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

__all__ = ["FairSlots"]


class FairSlots:
    """At most so many holders at once; a free slot goes to the client that holds the fewest.

    Of clients that hold equally many, the one goes first whose last turn is longest ago. One
    client's own requests are served in their order. To be used inside one event loop.

    Args:
        count: of slots.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._turns = 0
        self._last_turn: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._waiting.values()))

    async def acquire(self, client: str) -> None:
        """Take a slot, sooner or later."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # granted in the same moment
                self.release(client)
            else:
                self._leave(client, turn)
            raise

    def release(self, client: str) -> None:
        """Give a slot back."""
        self._held[client] -= 1
        self._free += 1
        self._grant()
        self._forget(client)

    def _grant(self) -> None:
        while self._free and self._waiting:
            client = min(self._waiting, key=self._rank)
            turn = self._waiting[client][0]
            if not turn.cancelled():
                self._free -= 1
                self._held[client] += 1
                self._turns += 1
                self._last_turn[client] = self._turns
                turn.set_result(None)
            self._leave(client, turn)

    def _rank(self, client: str) -> tuple[int, int]:
        return self._held[client], self._last_turn.get(client, 0)

    def _leave(self, client: str, turn: asyncio.Future[None]) -> None:
        """Take a request out of the queue, where it may have been already."""
        queue = self._waiting.get(client, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[client]
        self._forget(client)

    def _forget(self, client: str) -> None:
        """Keep nothing of a client that neither holds nor wants a slot."""
        if not self._held[client]:
            del self._held[client]
            if client not in self._waiting:
                self._last_turn.pop(client, None)
