"""Connections of a hostile caller: raw sockets, HTTP/2 frames and gRPC calls of raw bytes."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["Attack", "Target", "Wire", "frame", "grpc_message", "header_block", "request_headers"]

SERVICE: Final = f"/{pb.DESCRIPTOR.services_by_name['Segmentation'].full_name}/"
LONGEST_LINGER_S: Final = 10.0
STATUS: Final = re.compile(rb"grpc-status.(\d+)", re.S)
"""A trailer of the first response on a connection, which gRPC writes without compression."""
CODES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
GOAWAY: Final = 0x7


@dataclass(frozen=True)
class Target:
    """The service under attack, which the scenario has started itself.

    Attributes:
        address: HOST:PORT of the gateway's API, on loopback.
        metrics: HOST:PORT of its Prometheus page.
        token: of the hostile tenant.
    """

    address: str
    metrics: str
    token: str


class Wire:
    """Connections of one hostile caller; what lingers is closed with it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.details: set[str] = set()
        self._lingering: set[asyncio.Task[Any]] = set()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of an authenticated call."""
        return (("authorization", f"Bearer {self.target.token}"),)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel with a connection of its own."""
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        )
        async with grpc.aio.insecure_channel(self.target.address, options=options) as channel:
            yield channel

    async def call(
        self,
        method: str,
        body: bytes,
        timeout_s: float,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        compression: grpc.Compression | None = None,
    ) -> str:
        """Make a unary call with any bytes as its message, and return the status's name."""
        async with self.channel() as channel:
            path = method if method.startswith("/") else SERVICE + method
            call: Any = channel.unary_unary(path)
            sent = self.metadata if metadata is None else metadata
            return await self.status_of(
                call(body, timeout=timeout_s, metadata=sent, compression=compression)
            )

    async def status_of(self, call: Awaitable[Any]) -> str:
        """Await a call and return the name of its status."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.details.add(error.details() or "")
            return error.code().name
        return "OK"

    async def talk(
        self, data: bytes | Iterable[bytes], wait_s: float, *, to_metrics: bool = False
    ) -> str:
        """Send bytes over a raw connection, listen for a while and hang up.

        Args:
            data: to be sent, in pieces with a pause after each.
            wait_s: how long to listen.
            to_metrics: speak to the Prometheus page.

        Returns:
            The gRPC status's name, or `goaway`, `answered`, `closed` or `silent`.
        """
        host, _, port = (self.target.metrics if to_metrics else self.target.address).partition(":")
        received = bytearray()
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return "refused"
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    for piece in (data,) if isinstance(data, bytes) else data:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(0)
                    while piece := await reader.read(1 << 16):
                        received += piece
                        if STATUS.search(received):
                            break
                    else:
                        return _seen(received) if received else "closed"
        except OSError:
            return _seen(received) if received else "closed"
        finally:
            writer.transport.abort()
        return _seen(received)

    def linger(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let a caller stay while others come, for a bounded time."""
        task = asyncio.create_task(_bounded(work))
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def close(self) -> None:
        """Wait for all that lingers."""
        await asyncio.gather(*self._lingering, return_exceptions=True)


@dataclass(frozen=True)
class Attack:
    """A hostile caller.

    Attributes:
        name: `family.kind`.
        run: does it, and returns how it ended: a gRPC status's name or a lower-case word.
    """

    name: str
    run: Callable[[Wire], Awaitable[str]]


async def _bounded(work: Coroutine[Any, Any, Any]) -> None:
    with suppress(TimeoutError, OSError, grpc.aio.AioRpcError):
        async with asyncio.timeout(LONGEST_LINGER_S):
            await work


def _seen(received: bytes | bytearray) -> str:
    status = STATUS.search(received)
    if status:
        return CODES.get(int(status[1]), "a status that gRPC does not know")
    if any(kind == GOAWAY for kind in _frame_kinds(received)):
        return "goaway"
    return "answered" if received else "silent"


def _frame_kinds(received: bytes | bytearray) -> Iterable[int]:
    position = 0
    while position + 9 <= len(received):
        yield received[position + 3]
        position += 9 + int.from_bytes(received[position : position + 3], "big")


_Header: TypeAlias = tuple[bytes, bytes]


def frame(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame (RFC 9113, 4.1), with a length of its body or another one."""
    size = len(body) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + body


def header_block(headers: Iterable[_Header]) -> bytes:
    """Headers as literals without indexing (HPACK, RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in headers)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, size = len(text) - 127, bytearray([127])
    while rest >= 128:
        size.append(rest % 128 + 128)
        rest //= 128
    return bytes([*size, rest]) + text


def request_headers(token: str, method: str = "Segment", **replaced: bytes) -> list[_Header]:
    """Headers of a gRPC call; `replaced` gives others, with _ for - and for a leading colon."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": SERVICE.encode() + method.encode(),
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"authorization": f"Bearer {token}".encode(),
    }
    for name, value in replaced.items():
        key = name.encode().replace(b"_", b"-")
        headers[b":" + key[1:] if key.startswith(b"-") else key] = value
    return list(headers.items())


def grpc_message(body: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """A message of gRPC's wire format: flag, length and body."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body
