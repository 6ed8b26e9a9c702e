"""Reading of messages in turns of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from serving.gateway.calls.turns import BYTES, ReadingTurns


class Context:
    """Of a call whose message comes when it is released, and is noted when it is copied."""

    def __init__(self, copied: Callable[[], object], message: object) -> None:
        self._copied, self._message = copied, message
        self.is_there = asyncio.Event()
        self.is_cancelled = False

    async def read(self) -> object:
        try:
            await self.is_there.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        if isinstance(self._message, Exception):
            raise self._message
        self._copied()
        return self._message


class Turns:
    """Numbers the turns of the running loop."""

    def __init__(self) -> None:
        self.now = 0
        self._next()

    def _next(self) -> None:
        self.now += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def turns_of(messages: list[Any]) -> list[int]:
    """Read messages that come at once; return the turn of the loop in which each was copied."""
    turns, reading, copied = Turns(), ReadingTurns(), []
    contexts = [Context(lambda: copied.append(turns.now), message) for message in messages]
    tasks = [asyncio.create_task(reading.read(context)) for context in contexts]
    await asyncio.sleep(0)
    for context in contexts:
        context.is_there.set()
    assert await asyncio.gather(*tasks) == messages
    turns.stop()
    return copied


async def test_large_messages_that_come_together_are_copied_in_turns_of_their_own() -> None:
    copied = await turns_of([bytes(BYTES)] * 4)
    assert len(set(copied)) == 4


async def test_small_messages_and_ends_share_a_turn() -> None:
    copied = await turns_of([bytes(1000), grpc.aio.EOF] * 50)
    assert len(set(copied)) == 1


async def test_small_messages_after_a_large_one_wait_for_the_next_turn() -> None:
    first, *others = await turns_of([bytes(BYTES), b"a", b"b", b"c"])
    assert set(others) == {first + 1}


@pytest.mark.parametrize("is_copying", [False, True])
async def test_cancelled_reading_is_cancelled_in_grpc(is_copying: bool) -> None:
    reading = ReadingTurns()
    if is_copying:
        reading._count(BYTES)
    context = Context(lambda: None, b"")
    task = asyncio.create_task(reading.read(context))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert context.is_cancelled


async def test_error_of_grpc_is_raised() -> None:
    context = Context(lambda: None, grpc.aio.InternalError("closed"))
    context.is_there.set()
    with pytest.raises(grpc.aio.InternalError, match="closed"):
        await ReadingTurns().read(context)
