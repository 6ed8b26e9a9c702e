"""Attacks by messages: extreme values of fields, mutated protobufs, bulk, and hostile images."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from benchmarks.chaos.hostile.images import (
    crafted,
    line_of_pixels,
    mutated_bytes,
    mutated_image,
    plain_image,
)
from benchmarks.chaos.hostile.ordinary import click_request
from benchmarks.chaos.hostile.wire import Attack, Wire
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = [
    "FLOATS",
    "TEXTS",
    "WHOLES",
    "draw_bulk",
    "draw_fields",
    "draw_image",
    "draw_protobuf",
]

FLOATS: Final = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-38, 0.5, 0.9999999, 1.0, 7.0, 3e38)
WHOLES: Final = (0, 1, 2, 3, 7, 255, 4096, (1 << 31) - 1, (1 << 32) - 1)
TEXTS: Final = (
    "",
    "x" * 129,
    "y" * 200_000,
    "\x1b[31mFORGED-TEXT\x07\r\nFORGED-LINE of a log\x00",
    "\u202eabc\u2028FORGED-LINE\u0085",
    "../../../../etc/passwd",
    "%s%n{0}",
    "0" * 64,
    "G" * 64,
)
METHODS: Final = ("Segment", "AddClass", "RemoveClass", "Describe", "ListClasses")
TIMEOUTS_S: Final = (0.001, 0.05, 0.5, 3.0)
MAX_BULK: Final = 38 << 20
HEADER_BYTES: Final = 40


def draw_fields(rng: random.Random) -> Attack:
    """Draw a request of which one to three fields have a value that nobody means."""
    request = click_request(rng)
    chosen = rng.sample([*EXTREMES], rng.choice([1, 1, 2, 3]))
    names = [name for name in EXTREMES if name in chosen]
    for name in names:
        EXTREMES[name](request, rng)
    return Attack(f"fields.{names[-1]}", _segment(request.SerializeToString(), rng))


def draw_protobuf(rng: random.Random) -> Attack:
    """Draw bytes that are no message of their method, or hardly one."""
    name = rng.choice([*BYTES])
    body = BYTES[name](rng)
    method = rng.choice(METHODS)
    timeout_s = rng.choice(TIMEOUTS_S)
    return Attack(f"protobuf.{name}", lambda wire: wire.call(method, body, timeout_s))


def draw_bulk(rng: random.Random) -> Attack:
    """Draw a message of up to 38 MB that holds nothing but many small fields, or one large one."""
    size = rng.choice([100_000, 1 << 20, 8 << 20, MAX_BULK])
    unit = rng.choice([*BULK])
    method = "AddClass" if unit in ("examples", "entities") else "Segment"

    async def run(wire: Wire) -> str:
        # Made only now, so that few of them are held at a time.
        return await wire.call(method, BULK[unit](size), 5.0)

    return Attack(f"bulk.{unit}", run)


def draw_image(rng: random.Random) -> Attack:
    """Draw a request with a mutated file or a crafted header, about a click."""
    timeout_s = rng.choice([0.5, 3.0])
    if rng.random() < 0.8:
        name, build = "mutated", partial(mutated_image, rng)
    else:
        name, data = crafted(rng)
        build = partial(bytes, data)

    async def run(wire: Wire) -> str:
        request = click_request(rng, build())
        return await wire.call("Segment", request.SerializeToString(), timeout_s)

    return Attack(f"images.{name}", run)


def _segment(body: bytes, rng: random.Random) -> Callable[[Wire], Awaitable[str]]:
    timeout_s = rng.choice(TIMEOUTS_S)
    return lambda wire: wire.call("Segment", body, timeout_s)


def _points(request: pb.SegmentRequest, rng: random.Random) -> None:
    point = request.prompts.add().points.add()
    point.x, point.y = rng.choice(FLOATS), rng.choice(FLOATS)


def _box(request: pb.SegmentRequest, rng: random.Random) -> None:
    corners = {name: rng.choice(FLOATS) for name in ("x0", "y0", "x1", "y1")}
    request.prompts.add().box.CopyFrom(pb.Box(**corners))


def _many_points(request: pb.SegmentRequest, rng: random.Random) -> None:
    count = rng.choice([25, 1000, 100_000])
    request.prompts[:1][0].points.extend([pb.Point(x=1, y=1)] * count)


def _many_prompts(request: pb.SegmentRequest, rng: random.Random) -> None:
    prompt = pb.Prompt(points=[pb.Point(x=1, y=1)])
    request.prompts.extend([prompt] * rng.choice([255, 256, 10_000]))


def _tiles(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.tile_size = rng.choice(WHOLES)
    if rng.random() < 0.5:
        request.tile_overlap = rng.choice(FLOATS)


def _line(request: pb.SegmentRequest, rng: random.Random) -> None:
    """A line of pixels in tiles of one: a grid as long as the line."""
    width = rng.choice([100_000, 1 << 22, 1 << 25])
    request.image_bytes = line_of_pixels(width, upright=rng.random() < 0.2 and width < 1 << 23)
    request.tile_size = rng.choice([1, 2, 3])
    if rng.random() < 0.5:
        request.ClearField("prompts")
        request.everything.points_per_side = rng.choice([1, 32])
    else:
        request.prompts[0].points[0].x, request.prompts[0].points[0].y = 0, 0


def _everything(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.ClearField("prompts")
    everything = request.everything
    everything.points_per_side = rng.choice([1, 2, 4, 4, 65, *WHOLES])
    for field in pb.Everything.DESCRIPTOR.fields:
        if field.name != "points_per_side" and rng.random() < 0.3:
            values = FLOATS if field.cpp_type == field.CPPTYPE_FLOAT else WHOLES
            setattr(everything, field.name, rng.choice(values))


def _classes(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.ClearField("prompts")
    request.classes.extend([rng.choice(TEXTS), *["nucleus"] * rng.choice([0, 1, 255, 10_000])])
    for field in pb.ClassSearch.DESCRIPTOR.fields:
        if rng.random() < 0.4:
            setattr(request.class_search, field.name, rng.choice(FLOATS))


def _image_id(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.image_id = rng.choice(TEXTS)


def _no_image(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.ClearField("image_bytes")
    if rng.random() < 0.5:
        request.image_bytes = rng.choice([b"", b"\x89PNG\r\n\x1a\n", rng.randbytes(1000)])


def _reading(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.page = rng.choice(WHOLES)
    request.channels.extend([rng.choice(WHOLES)] * rng.choice([0, 1, 3, 4, 100_000]))
    request.intensity.policy = rng.choice(("percentile", "range", *TEXTS))
    request.intensity.low = rng.choice((*FLOATS, -1e308))
    request.intensity.high = rng.choice((*FLOATS, 1e308))


def _mask_input(request: pb.SegmentRequest, rng: random.Random) -> None:
    logits = rng.choice([b"", b"x", bytes(4 * 64 * 64), struct.pack("<f", math.nan) * 64 * 64])
    mask = request.prompts[0].mask_input
    mask.logits = logits
    if rng.random() < 0.5:
        mask.part.x1, mask.part.y1 = rng.choice(FLOATS), rng.choice(FLOATS)


def _mask_rle(request: pb.SegmentRequest, rng: random.Random) -> None:
    rle = request.prompts[0].mask.coco_rle
    rle.size.height, rle.size.width = rng.choice(((48, 48), (rng.choice(WHOLES),) * 2))
    rle.counts = rng.choice(
        ["", "0", "o" * 40, "P" * 100_000, "".join(chr(rng.randint(48, 111)) for _ in range(200))]
    )


def _mask_png(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.prompts[0].mask.png = rng.choice(
        [b"", plain_image(), line_of_pixels(1 << 20), mutated_image(rng), crafted(rng)[1]]
    )


def _enums(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.mask_selection = rng.choice([3, 99, -1])  # type: ignore[assignment]
    request.mask_format = rng.choice([4, -7, (1 << 31) - 1])  # type: ignore[assignment]


def _two_modes(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.everything.SetInParent()
    request.return_low_res_masks = True


def _request_id(request: pb.SegmentRequest, rng: random.Random) -> None:
    request.request_id = rng.choice(TEXTS)


EXTREMES: Final[dict[str, Callable[[pb.SegmentRequest, random.Random], None]]] = {
    function.__name__[1:]: function
    for function in (
        *(_points, _box, _many_points, _many_prompts, _tiles, _image_id, _no_image),
        *(_reading, _mask_input, _mask_rle, _mask_png, _enums, _two_modes, _request_id),
        *(_line, _classes, _everything),  # these take the prompts away, so they come last
    )
}


def _nested(rng: random.Random) -> bytes:
    """Groups within groups, or messages within messages, of which none is closed."""
    return bytes([rng.choice([0x0B, 0x42])]) * rng.choice([50, 100_000])


def _lengths(rng: random.Random) -> bytes:
    field = rng.choice([0x0A, 0x12, 0x42])
    return bytes([field]) + b"\xff" * rng.randint(1, 12) + rng.choice([b"\x01", b"\x7f", b""])


BYTES: Final[dict[str, Callable[[random.Random], bytes]]] = {
    "noise": lambda rng: rng.randbytes(rng.randint(1, 3000)),
    "mutated": lambda rng: mutated_bytes(click_request(rng).SerializeToString(), rng, HEADER_BYTES),
    "nested": _nested,
    "lengths": _lengths,
    "not_utf8": lambda rng: b"\x0a\x04\xff\xfe\xc0\x80" + click_request(rng).SerializeToString(),
    "unknown_fields": lambda rng: b"\xf8\xff\xff\xff\x0f\x01" * rng.choice([1, 100_000]),
    "wire_types": lambda rng: bytes([(rng.randrange(1, 16) << 3) | rng.randrange(8), 1]) * 20,
    "empty": lambda _: b"",
}
BULK: Final[dict[str, Callable[[int], bytes]]] = {
    "prompts": lambda size: b"\x42\x00" * (size // 2),
    "points": lambda size: _field(0x42, b"\x0a\x00" * (size // 2)),
    "classes": lambda size: b"\x52\x00" * (size // 2),
    "channels": lambda size: _field(0x92, b"\x00" * size, b"\x01"),
    "unknown": lambda size: b"\xf8\x07\x00" * (size // 3),
    "examples": lambda size: b"\x12\x00" * (size // 2),
    "entities": lambda size: _field(0x12, b"\x42\x00" * (size // 2)),
    "image": lambda size: _field(0x12, bytes(size)),
    "request_id": lambda size: _field(0x0A, b"a" * size),
}
"""Messages of about so many bytes. A tag of the API's: field 8 is 0x42, prompts or entities."""


def _field(tag: int, content: bytes, more: bytes = b"") -> bytes:
    """A field of a length: tag, varint and content."""
    length, rest = bytearray(), len(content)
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([tag]) + more + bytes([*length, rest]) + content
