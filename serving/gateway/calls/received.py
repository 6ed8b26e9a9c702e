"""Messages as they are received: copied in turns of the event loop, and parsed away from it.

gRPC copies a message as the coroutine that awaits it runs on, which takes tens of milliseconds for
32 MiB. Several that have come together would be copied in one turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from cpcsam.errors import ContractError
from serving.gateway.scheduling.executors import Executors
from serving.gateway.validation.message_fields import check_fields

__all__ = ["MessageParser", "ReadingTurns", "received_bytes"]

SMALL: Final = 1 << 16
"""Bytes of a message that takes less time than to change the thread, or milliseconds at most."""
LARGE: Final = 4 << 20
"""Bytes copied in a turn of the loop, after which other messages wait for the next turn."""
SIZE: Final[ContextVar[int]] = ContextVar("received_bytes")


def received_bytes() -> int:
    """Return the size of the message that the current task handles; 0 if none was received.

    `Message.ByteSize` serialises the message to count them.
    """
    return SIZE.get(0)


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
                    while self._copied >= LARGE:
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


class MessageParser:
    """Parser of serialised messages; to be used inside one event loop."""

    def __init__(self, executors: Executors) -> None:
        self._executors = executors

    async def parse(self, kind: type[Message], content: bytes, client: str) -> Any:
        """Return a message; `received_bytes` is its size from then on, in this task.

        Args:
            kind: its type.
            content: the message on the wire.
            client: key of fairness.

        Raises:
            ContractError: it is no such message.
            LimitError: it has too many fields, or too long a text.
        """
        SIZE.set(len(content))
        if len(content) <= SMALL:
            return _parsed(kind, content)
        return await self._executors.messages.run(client, _parsed, kind, content)


def _parsed(kind: type[Message], content: bytes) -> Message:
    check_fields(content, kind)
    try:
        return kind.FromString(content)
    except DecodeError:
        pass  # its frames hold the content, so that it may not become a context below
    raise ContractError.of(
        "request",
        got=f"{len(content)} bytes that are no such message",
        expected="a message of the method in protobuf's binary format",
        fix="build it with the API's .proto file",
    )
