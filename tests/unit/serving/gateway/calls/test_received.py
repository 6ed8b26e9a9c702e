"""Received messages: when they are copied, where they are parsed, and their size."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from cpcsam.errors import ContractError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.calls import received
from serving.gateway.calls.received import LARGE, SMALL, MessageParser, ReadingTurns, received_bytes
from serving.gateway.scheduling.concurrency import ordered_map
from serving.gateway.scheduling.executors import Executors, open_executors

CUT = b"\x12\xff\xff\xff\x7f"
"""Field 2, image_bytes, of more bytes than follow."""


@pytest.fixture
def executors() -> Iterator[Executors]:
    with open_executors() as opened:
        yield opened


def request_of(size: int) -> bytes:
    return pb.SegmentRequest(request_id="r", image_bytes=bytes(size)).SerializeToString()


@pytest.mark.parametrize("size", [10, SMALL, 8 << 20])
async def test_parser_leaves_large_messages_to_a_thread(
    executors: Executors, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    check = received.check_fields

    def check_noting_the_thread(content: bytes, kind: type[Message]) -> None:
        threads.append(threading.current_thread())
        check(content, kind)

    monkeypatch.setattr(received, "check_fields", check_noting_the_thread)
    content = request_of(size)
    request = await MessageParser(executors).parse(pb.SegmentRequest, content, "client")
    assert request.request_id == "r" and len(request.image_bytes) == size
    assert received_bytes() == len(content)
    assert (threads == [threading.main_thread()]) is (len(content) <= SMALL)


@pytest.mark.parametrize("size", [10, 8 << 20])
async def test_parser_refuses_what_is_no_message(executors: Executors, size: int) -> None:
    with pytest.raises(ContractError, match="bytes that are no such message") as caught:
        await MessageParser(executors).parse(pb.SegmentRequest, CUT + bytes(size), "client")
    # A refused message must not stay in memory until a garbage collection.
    assert caught.value.__context__ is None


async def test_received_bytes_are_those_of_each_message_of_a_stream(executors: Executors) -> None:
    parser, sizes = MessageParser(executors), [10, 200_000, 40]

    async def messages() -> AsyncIterator[pb.SegmentRequest]:
        for size in sizes:
            yield await parser.parse(pb.SegmentRequest, request_of(size), "client")

    async def size_of(request: pb.SegmentRequest) -> int:
        await asyncio.sleep(0.01)
        return received_bytes()

    found = [size async for size in ordered_map(size_of, messages(), window=3)]
    assert found == [len(request_of(size)) for size in sizes]


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
    copied = await turns_of([bytes(LARGE)] * 4)
    assert len(set(copied)) == 4


async def test_small_messages_and_ends_share_a_turn() -> None:
    copied = await turns_of([bytes(1000), grpc.aio.EOF] * 50)
    assert len(set(copied)) == 1


async def test_small_messages_after_a_large_one_wait_for_the_next_turn() -> None:
    first, *others = await turns_of([bytes(LARGE), b"a", b"b", b"c"])
    assert set(others) == {first + 1}


@pytest.mark.parametrize("is_copying", [False, True])
async def test_cancelled_reading_is_cancelled_in_grpc(is_copying: bool) -> None:
    reading = ReadingTurns()
    if is_copying:
        reading._count(LARGE)
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
