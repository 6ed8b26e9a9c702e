"""Connections bounded in number, in patience and in the lines of a request's headers."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["connection_class"]

MAX_LINES: Final = 256
"""Lines of a request's headers; thousands would halt the event loop while they are parsed."""
END_OF_HEADERS: Final = re.compile(rb"\n\r?\n")


def connection_class(max_connections: int, patience_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol, which alone waits forever, with bounds.

    Args:
        max_connections: a further one is closed at once.
        patience_s: a connection is ended that in this time, or twice it at most, neither completes
            the headers of a request nor takes anything of an answer.
    """

    class BoundedConnection(H11Protocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._look: asyncio.TimerHandle | None = None
            self._seen: tuple[object, int] | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                transport.abort()
                return
            self._look = self.loop.call_later(patience_s, self._end_if_idle)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._look is not None:
                self._look.cancel()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            if self.conn.their_state is h11.IDLE:
                received, _ = self.conn.trailing_data
                headers = END_OF_HEADERS.split(received, 1)[0]
                if headers.count(b"\n") >= MAX_LINES:
                    self.send_400_response(f"The headers have more than {MAX_LINES} lines.")
                    return
            super().handle_events()

        def _end_if_idle(self) -> None:
            """End the connection if it is as it was, and nothing is being computed for it."""
            unread = self.transport.get_write_buffer_size()
            is_busy = self.cycle is not None and not self.cycle.response_complete and not unread
            seen = self.cycle, unread
            if seen == self._seen and not is_busy:
                self.transport.abort()
                return
            self._seen = None if is_busy else seen
            self._look = self.loop.call_later(patience_s, self._end_if_idle)

    return BoundedConnection
