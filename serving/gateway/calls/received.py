"""Messages as they are received: parsed away from the event loop if they are large."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from cpcsam.errors import ContractError
from serving.gateway.scheduling.executors import Executors
from serving.gateway.validation.message_fields import check_fields

__all__ = ["MessageParser", "received_bytes"]

SMALL: Final = 1 << 16
"""Bytes of a message that takes less time than to change the thread, or milliseconds at most."""
SIZE: Final[ContextVar[int]] = ContextVar("received_bytes")


def received_bytes() -> int:
    """Return the size of the message that the current task handles; 0 if none was received.

    `Message.ByteSize` serialises the message to count them.
    """
    return SIZE.get(0)


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
