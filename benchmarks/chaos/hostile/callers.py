"""Attacks by behaviour: callers that vanish, stay, do not read, or send odd metadata; classes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.chaos.hostile.images import SIDE, line_of_pixels, mutated_image, plain_image
from benchmarks.chaos.hostile.messages import FLOATS, TEXTS, WHOLES
from benchmarks.chaos.hostile.ordinary import half_mask, rle_number
from benchmarks.chaos.hostile.sockets import END_HEADERS, HEADERS, OPENING
from benchmarks.chaos.hostile.wire import (
    Attack,
    Wire,
    frame,
    grpc_message,
    header_block,
    request_headers,
)
from cpcsam.client._first_status import FirstStatus
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

__all__ = ["draw_caller", "draw_class", "draw_metadata"]

CROWD: Final = 340
HELD_S: Final = (1.0, 5.0)
STREAMED: Final = 40


def draw_caller(rng: random.Random) -> Attack:
    """Draw a caller that begins a call and does not go through with it."""
    kinds: dict[str, Callable[[Wire], Any]] = {
        "cancel": lambda wire: _cancelled(wire, rng),
        "headers_only": lambda wire: _headers_only(
            wire, rng.choices([1, 10, CROWD], [70, 29, 1])[0], rng.uniform(*HELD_S)
        ),
        "half_message": lambda wire: _half_message(wire, rng),
        "watches": lambda wire: _watches(
            wire, rng.choices([1, 10, CROWD], [70, 29, 1])[0], rng.uniform(*HELD_S)
        ),
        "unread_stream": lambda wire: _unread_stream(wire, rng.uniform(*HELD_S)),
        "mixed_stream": lambda wire: _mixed_stream(wire, rng),
        "left_stream": lambda wire: _left_stream(wire, rng),
        "broken_stream": lambda wire: _broken_stream(wire, rng),
    }
    name = rng.choice([*kinds])
    return Attack(f"callers.{name}", kinds[name])


def _request(number: int = 0) -> pb.SegmentRequest:
    point = pb.Point(x=5, y=5)
    return pb.SegmentRequest(
        request_id=f"hostile-{number}",
        image_bytes=plain_image(),
        prompts=[pb.Prompt(points=[point])],
    )


async def _cancelled(wire: Wire, rng: random.Random) -> str:
    async with wire.channel() as channel:
        stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
        call = stub.Segment(_request(), timeout=5, metadata=wire.metadata)
        await asyncio.sleep(rng.uniform(0, 0.3))
        call.cancel()
        await asyncio.wait([asyncio.ensure_future(wire.status_of(call))])
    return "cancelled"


async def _headers_only(wire: Wire, count: int, seconds: float) -> str:
    """Open calls of which no message ever comes."""
    headers = header_block(request_headers(wire.target.token))
    calls = [frame(HEADERS, END_HEADERS, stream, headers) for stream in range(1, 2 * count, 2)]
    # A connection has at most a hundred streams where a server sets no limit of its own.
    for start in range(0, count, 90):
        opened = b"".join(calls[start : start + 90])
        wire.linger(wire.talk(OPENING + opened, seconds))
    await asyncio.sleep(0)
    return "held"


async def _half_message(wire: Wire, rng: random.Random) -> str:
    headers = frame(HEADERS, END_HEADERS, 1, header_block(request_headers(wire.target.token)))
    body = grpc_message(_request().SerializeToString())
    half = frame(0, 0, 1, body[: rng.randint(1, len(body) - 1)])
    work = wire.talk(OPENING + headers + half, rng.uniform(0, 3))
    if rng.random() < 0.5:
        return await work
    wire.linger(work)
    return "held"


async def _watches(wire: Wire, count: int, seconds: float) -> str:
    """Watch health many times without a token."""

    async def watch() -> None:
        async with wire.channel() as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            calls = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(count)]
            await asyncio.sleep(seconds)
            for call in calls:
                call.cancel()

    wire.linger(watch())
    await asyncio.sleep(0)
    return "held"


async def _unread_stream(wire: Wire, seconds: float) -> str:
    """Send requests of a stream within a window that admits no answers."""
    no_window = frame(0x4, 0, 0, b"\x00\x04\x00\x00\x00\x00")
    headers = header_block(request_headers(wire.target.token, "SegmentStream"))
    message = grpc_message(_request().SerializeToString())
    requests = b"".join(frame(0, 0, 1, message) for _ in range(8))
    opened = OPENING + no_window + frame(HEADERS, END_HEADERS, 1, headers)
    wire.linger(wire.talk(opened + requests, seconds))
    await asyncio.sleep(0)
    return "held"


async def _streamed(wire: Wire, messages: list[bytes], read: int | None) -> str:
    """Send raw messages over a stream and read so many answers, or all."""

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async with wire.channel() as channel:
        method = "/cpcsam.v1.Segmentation/SegmentStream"
        open_stream: Any = channel.stream_stream(method)
        call = open_stream(sent(), timeout=10, metadata=wire.metadata)
        status = FirstStatus(call)
        codes: set[str] = set()
        try:
            async for answer in call:
                outcome = pb.SegmentStreamResponse.FromString(answer)
                codes.add(_code(outcome))
                read = None if read is None else read - 1
                if read == 0:
                    call.cancel()
        except grpc.aio.AioRpcError as reported:
            error = status.instead_of(reported)
            wire.details.add(error.details() or "")
            codes.add(error.code().name)
        except asyncio.CancelledError:
            if read != 0:
                raise
    for bad in ("UNKNOWN", "INTERNAL"):
        if bad in codes:
            return bad
    return "stream ended"


def _code(outcome: pb.SegmentStreamResponse) -> str:
    if not outcome.HasField("failure"):
        return "OK"
    number = outcome.failure.code
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), "no status")


async def _mixed_stream(wire: Wire, rng: random.Random) -> str:
    requests = [_request(number) for number in range(rng.randint(1, 6))]
    for request in requests:
        if rng.random() < 0.5:
            request.image_bytes = mutated_image(rng)
        if rng.random() < 0.2:
            request.request_id = rng.choice(TEXTS)
    return await _streamed(wire, [request.SerializeToString() for request in requests], None)


async def _left_stream(wire: Wire, rng: random.Random) -> str:
    messages = [_request(number).SerializeToString() for number in range(STREAMED)]
    return await _streamed(wire, messages, rng.randint(1, 2))


async def _broken_stream(wire: Wire, rng: random.Random) -> str:
    messages = [_request().SerializeToString(), rng.randbytes(rng.randint(1, 100))]
    return await _streamed(wire, messages, None)


def draw_metadata(rng: random.Random) -> Attack:
    """Draw a call with odd metadata, an odd method or a compressed message."""
    body = _request().SerializeToString()
    token = rng.choice(
        ["", "Bearer", "Bearer ", "Basic eDp5", "Bearer " + "a" * 5000, "Bearer x y"]
    )
    many = [(f"x-{number}", "y" * 20) for number in range(rng.choice([10, 1000]))]
    methods = ["/", "/cpcsam.v1.Segmentation/", "/cpcsam.v1.Segmentation/None", "/a.b/C"]
    method, zeros = rng.choice(methods), bytes(rng.choice([1 << 20, 30 << 20, 200 << 20]))
    kinds: dict[str, Callable[[Wire], Any]] = {
        "token": lambda wire: wire.call("Segment", body, 1, [("authorization", token)]),
        "no_token": lambda wire: wire.call("Segment", body, 1, []),
        "two_tokens": lambda wire: wire.call(
            "Segment", body, 1, [*wire.metadata, ("authorization", "Bearer FORGED-SECRET")]
        ),
        "binary_token": lambda wire: wire.call(
            "Segment", body, 1, [("authorization-bin", rng.randbytes(50))]
        ),
        "many": lambda wire: wire.call("Segment", body, 1, [*wire.metadata, *many]),
        "method": lambda wire: wire.call(method, body, 1),
        "reflection": lambda wire: wire.call(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", rng.randbytes(20), 1
        ),
        "health": lambda wire: wire.call("/grpc.health.v1.Health/Check", rng.randbytes(20), 1),
        "inflated": lambda wire: wire.call("Segment", zeros, 5, compression=grpc.Compression.Gzip),
    }
    name = rng.choices([*kinds], [1 if kind == "inflated" else 8 for kind in kinds])[0]
    return Attack(f"metadata.{name}", kinds[name])


def draw_class(rng: random.Random) -> Attack:
    """Draw a change of classes: tiny tiles, huge or broken masks, odd names, or many at a time."""
    kinds: dict[str, Callable[[Wire], Any]] = {
        "tiny_tiles": lambda wire: _add(wire, rng, tile_size=rng.choice([1, 2, 3, 7])),
        "huge_tiles": lambda wire: _add(wire, rng, tile_size=rng.choice(WHOLES)),
        "many_examples": lambda wire: _add(wire, rng, examples=rng.choice([16, 64, 65, 1000])),
        "many_entities": lambda wire: _add(wire, rng, entities=rng.choice([100, 4096, 4097])),
        "odd_name": lambda wire: _add(wire, rng, name=rng.choice(TEXTS)),
        "huge_masks": lambda wire: _huge_masks(wire, rng),
        "broken_masks": lambda wire: _add(wire, rng, counts=rng.choice(["", "z", "0" * 9999])),
        "at_once": lambda wire: _at_once(wire, rng),
        "remove": lambda wire: wire.call(
            "RemoveClass", pb.RemoveClassRequest(name=rng.choice(TEXTS)).SerializeToString(), 2
        ),
        "intensity": lambda wire: _add(wire, rng, low=rng.choice(FLOATS)),
    }
    name = rng.choice([*kinds])
    return Attack(f"classes.{name}", kinds[name])


async def _add(
    wire: Wire,
    rng: random.Random,
    name: str = "",
    examples: int = 1,
    entities: int = 1,
    counts: str | None = None,
    tile_size: int | None = None,
    low: float | None = None,
) -> str:
    mask = half_mask(SIDE)
    if counts is not None:
        mask.counts = counts
    example = pb.Example(image_bytes=plain_image(), entities=[mask] * entities)
    if low is not None:
        example.intensity.CopyFrom(pb.Intensity(policy="range", low=low, high=1.0))
    request = pb.AddClassRequest(
        name=name or f"class {rng.randrange(4)}", examples=[example] * examples, tile_size=tile_size
    )
    return await wire.call("AddClass", request.SerializeToString(), rng.choice([0.5, 5.0]))


async def _huge_masks(wire: Wire, rng: random.Random) -> str:
    """Examples of a few bytes each whose masks fill all the pixels that an image may have."""
    width = rng.choice([1 << 20, 1 << 24, 1 << 25])
    mask = pb.CocoRle(size=pb.Size(height=1, width=width), counts="0" + rle_number(width))
    example = pb.Example(image_bytes=line_of_pixels(width), entities=[mask] * rng.choice([1, 20]))
    request = pb.AddClassRequest(
        name="huge", examples=[example] * rng.choice([1, 4, 8]), tile_size=rng.choice([0, 64])
    )
    return await wire.call("AddClass", request.SerializeToString(), 5)


async def _at_once(wire: Wire, rng: random.Random) -> str:
    """Add and remove the same class in eight calls at a time, which want the same lock."""
    remove = pb.RemoveClassRequest(name="class 0").SerializeToString()
    statuses = await asyncio.gather(
        *(_add(wire, rng, name="class 0") for _ in range(5)),
        *(wire.call("RemoveClass", remove, 3) for _ in range(3)),
    )
    return next((status for status in statuses if status in ("UNKNOWN", "INTERNAL")), statuses[0])
