"""Reading of large messages, spread over turns of the event loop.

gRPC copies a message as the coroutine that awaits it runs on, which takes tens of milliseconds for
32 MiB. Several that have come together would be copied in one turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import coroutine
from typing import Any, Final

__all__ = ["ReadingTurns"]

BYTES: Final = 4 << 20
"""Copied in a turn of the loop, after which other messages wait for the next turn."""


class ReadingTurns:
    """Reads messages, at most one large one in a turn of the loop; for use inside one loop."""

    def __init__(self) -> None:
        self._copied = 0

    @coroutine
    def read(self, context: Any) -> Generator[Any, None, Any]:
        """Return the next message of a call, or `grpc.aio.EOF`, as `context.read()` does."""
        reading = context.read().__await__()
        try:
            waited = next(reading)
            while True:
                try:
                    yield waited
                    while self._copied >= BYTES:
                        yield  # until the loop's next turn
                except BaseException as error:
                    waited = reading.throw(error)
                else:
                    waited = next(reading)
        except StopIteration as end:
            if isinstance(end.value, bytes):
                self._count(len(end.value))
            return end.value

    def _count(self, size: int) -> None:
        if not self._copied:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._copied += size

    def _begin_turn(self) -> None:
        self._copied = 0
