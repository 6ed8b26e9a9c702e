"""Received messages: where they are parsed, and their size."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from google.protobuf.message import Message

from cpcsam.errors import ContractError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.calls import received
from serving.gateway.calls.received import SMALL, MessageParser, received_bytes
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
