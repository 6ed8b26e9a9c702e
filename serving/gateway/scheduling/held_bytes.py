"""Bound on the memory of the requests that are worked on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cpcsam.grpc_errors import FullError

__all__ = ["HeldBytes"]

SMALL: Final = 1 << 20
"""Bytes of a request that always has room: there are few enough, and it shall not wait for others'
large ones."""


class HeldBytes:
    """Budget of the bytes of large requests, of which one client has half at most.

    To be used inside one event loop.

    Args:
        most: bytes of all requests.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, client: str, size: int, *, wait: bool = False) -> AsyncIterator[None]:
        """Count a request while the block runs; without room, wait or refuse it at once.

        Args:
            client: who sent it.
            size: of the request in bytes.
            wait: until there is room.

        Raises:
            FullError: there is no room, and the request does not wait.
        """
        counted = 0 if size <= SMALL else size
        while (refusal := self._refusal(client, counted)) is not None:
            if not wait:
                raise refusal
            await self._freed.wait()
        self._held[client] += counted
        try:
            yield
        finally:
            self._held[client] -= counted
            if not self._held[client]:
                del self._held[client]
            # Wakes all that wait now.
            self._freed.set()
            self._freed.clear()

    def _refusal(self, client: str, size: int) -> FullError | None:
        for held, most in (
            (self._held.total(), self._most),
            (self._held[client], self._most // 2),
        ):
            # A request alone may be larger than its part.
            if held and held + size > most and size:
                return FullError.of(
                    "requests in flight",
                    got=f"{held} bytes already",
                    expected=f"at most {most} with this one of {size}",
                    fix="try again in a moment",
                )
        return None
