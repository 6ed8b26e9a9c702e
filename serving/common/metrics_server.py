"""HTTP endpoint of the metrics: an asyncio server that holds one thread and few connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Final

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cpcsam.errors import ServingError
from serving.common.exposure import address_of

__all__ = ["serve_metrics"]

PATHS: Final = (b"/metrics", b"/")
MAX_CONNECTIONS: Final = 32
REQUEST_S: Final = 10.0
"""Seconds for a request to come and its answer to be read."""
MAX_READ: Final = 16 * 1024
MAX_LINES: Final = 128
"""Lines of a request; thousands of short ones would halt the event loop while they are parsed."""
PART_OF_TIME: Final = 0.25


@asynccontextmanager
async def serve_metrics(
    registry: CollectorRegistry, host: str, port: int, refresh: Callable[[], None] = lambda: None
) -> AsyncIterator[int]:
    """Serve metrics at `http://HOST:PORT/metrics` while the block runs.

    While `MAX_CONNECTIONS` are open, a further one takes the place of the oldest.

    Args:
        registry: collects them.
        host: address to listen on, IPv6 with or without brackets.
        port: port to listen on; 0 takes a free one.
        refresh: brings metrics up to date, in the event loop; a thread writes each page after it.

    Yields:
        The port.

    Raises:
        ServingError: the address cannot be listened on.
    """
    page = _MetricsPage(registry, refresh)
    try:
        server = await asyncio.start_server(page.answer, host.strip("[]"), port, limit=MAX_READ)
    except OSError as error:
        raise ServingError.of(
            "metrics port",
            got=f"{address_of(host, port)} ({error.strerror})",
            expected="an address that is free",
            fix="stop what listens there or give another --metrics-port",
        ) from error
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        page.close()


class _MetricsPage:
    """Answers the requests of one connection each, several one after the other."""

    def __init__(self, registry: CollectorRegistry, refresh: Callable[[], None]) -> None:
        self._registry, self._refresh = registry, refresh
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "metrics")

    def close(self) -> None:
        self._thread.shutdown(wait=False)
        for task, writer in self._open.items():
            task.cancel()
            writer.transport.abort()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            oldest.cancel()
            self._open.pop(oldest).transport.abort()
        self._open[task] = writer
        # A cancelled task, or any other end of a connection, is nobody's error.
        with suppress(asyncio.CancelledError, OSError, TimeoutError, h11.ProtocolError):
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_READ)
            while connection.our_state is h11.IDLE:
                async with asyncio.timeout(REQUEST_S):
                    await self._one(connection, reader, writer)
        self._open.pop(task, None)
        if writer.transport.get_write_buffer_size():
            writer.transport.abort()  # the client does not read
        writer.close()

    async def _one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read one request and answer it."""
        request: h11.Request | None = None
        lines = 0
        try:
            while type(event := connection.next_event()) is not h11.EndOfMessage:
                if isinstance(event, h11.ConnectionClosed):
                    raise ConnectionResetError
                if isinstance(event, h11.Request):
                    request = event
                if event is h11.NEED_DATA:
                    data = await reader.read(MAX_READ)
                    lines += data.count(b"\n")
                    if lines > MAX_LINES:
                        raise h11.RemoteProtocolError("too many lines", 431)
                    connection.receive_data(data)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await _send(connection, writer, error.error_status_hint, b"", "text/plain")
            raise
        assert request is not None
        if request.method != b"GET":
            await _send(connection, writer, 405, b"", "text/plain")
        elif request.target.partition(b"?")[0] not in PATHS:
            await _send(connection, writer, 404, b"see /metrics\n", "text/plain")
        else:
            accept = dict(request.headers).get(b"accept", b"").decode("latin-1")
            await _send(connection, writer, 200, *await self._page(accept))
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()

    async def _page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its type; a thread writes one at a time, a part of the time.

        A page takes tens of milliseconds, which would halt the event loop.
        """
        await self._turn.acquire()
        loop, started = asyncio.get_running_loop(), perf_counter()
        try:
            encode, content_type = choose_encoder(accept)
            self._refresh()
            return await loop.run_in_executor(self._thread, encode, self._registry), content_type
        finally:
            pause_s = (perf_counter() - started) * (1 / PART_OF_TIME - 1)
            loop.call_later(pause_s, self._turn.release)


async def _send(
    connection: h11.Connection,
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    content_type: str,
) -> None:
    headers = [("content-type", content_type), ("content-length", str(len(body)))]
    for event in (
        h11.Response(status_code=status, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ):
        writer.write(connection.send(event) or b"")
    await writer.drain()
