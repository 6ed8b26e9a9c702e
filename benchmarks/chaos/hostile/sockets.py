"""Attacks below gRPC: bytes on TCP connections, half-sent pages and HTTP/2 frames."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.chaos.hostile.wire import (
    Attack,
    Target,
    Wire,
    frame,
    grpc_message,
    header_block,
    request_headers,
)

__all__ = ["END_HEADERS", "HEADERS", "OPENING", "draw_http2", "draw_tcp"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    *(0x0, 0x1, 0x2, 0x3, 0x4, 0x6, 0x7, 0x8, 0x9),
)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
WAIT_S: Final = 0.5
OPENING: Final = PREFACE + frame(SETTINGS, 0, 0, b"")
PAGE: Final = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
HELD_PAGES: Final = 300


def draw_tcp(rng: random.Random) -> Attack:
    """Draw a connection that speaks no HTTP/2, or none to its end."""
    kinds: dict[str, Callable[[Wire], object]] = {
        "noise": lambda wire: wire.talk(rng.randbytes(rng.randint(1, 5000)), WAIT_S),
        "http1": lambda wire: wire.talk(PAGE + b"\r\n", WAIT_S),
        "tls": lambda wire: wire.talk(b"\x16\x03\x01\x02\x00\x01" + rng.randbytes(512), WAIT_S),
        "half_preface": lambda wire: _lingering(
            wire, PREFACE[: rng.randint(1, len(PREFACE) - 1)], rng.uniform(1, 5)
        ),
        "mute": lambda wire: _lingering(wire, b"", rng.uniform(1, 5)),
        "reset": lambda wire: wire.talk(OPENING, 0),
        "page_noise": lambda wire: wire.talk(
            rng.randbytes(rng.randint(1, 5000)), WAIT_S, to_metrics=True
        ),
        "page_long_line": lambda wire: wire.talk(
            b"GET /" + b"a" * rng.choice([10_000, 1_000_000]), WAIT_S, to_metrics=True
        ),
        "page_many_headers": lambda wire: wire.talk(
            PAGE + b"x: y\r\n" * rng.choice([50, 5_000]) + b"\r\n", WAIT_S, to_metrics=True
        ),
        "page_body": lambda wire: wire.talk(
            b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            WAIT_S,
            to_metrics=True,
        ),
        "page_half_sent": lambda wire: _half_sent_pages(
            wire, rng.choices([1, 10, HELD_PAGES], [80, 19, 1])[0], rng.uniform(1, 5)
        ),
    }
    return _drawn("tcp", kinds, rng)


async def _lingering(wire: Wire, data: bytes, seconds: float, *, to_metrics: bool = False) -> str:
    wire.linger(wire.talk(data, seconds, to_metrics=to_metrics))
    await asyncio.sleep(0)
    return "held"


async def _half_sent_pages(wire: Wire, count: int, seconds: float) -> str:
    for _ in range(count):
        wire.linger(wire.talk(PAGE, seconds, to_metrics=True))
    await asyncio.sleep(0.1)
    return "held"


def draw_http2(rng: random.Random) -> Attack:
    """Draw a connection that opens as HTTP/2 does and then breaks its rules, or gRPC's."""
    kinds: dict[str, Callable[[Wire], object]] = {
        name: partial(_talk, frames, rng) for name, frames in FRAMES.items()
    }
    return _drawn("http2", kinds, rng)


async def _talk(
    frames: Callable[[random.Random, Target], bytes], rng: random.Random, wire: Wire
) -> str:
    return await wire.talk(OPENING + frames(rng, wire.target), WAIT_S)


def _drawn(family: str, kinds: dict[str, Callable[[Wire], object]], rng: random.Random) -> Attack:
    name = rng.choice([*kinds])
    return Attack(f"{family}.{name}", kinds[name])  # type: ignore[arg-type]


def _call(token: str, body: bytes, stream: int = 1, **replaced: bytes) -> bytes:
    headers = header_block(request_headers(token, **replaced))  # type: ignore[arg-type]
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)


def _noise(rng: random.Random, target: Target) -> bytes:
    return b"".join(
        frame(
            rng.randrange(16),
            rng.randrange(256),
            rng.choice([0, 1, 3, rng.getrandbits(32)]),
            rng.randbytes(rng.randint(0, 60)),
        )
        for _ in range(rng.randint(1, 50))
    )


def _many_settings(rng: random.Random, target: Target) -> bytes:
    values = [struct.pack(">HI", rng.randrange(8), rng.getrandbits(32)) for _ in range(4)]
    return frame(SETTINGS, 0, 0, b"".join(values)) + 2000 * frame(SETTINGS, 0, 0, b"")


def _rapid_reset(rng: random.Random, target: Target) -> bytes:
    headers = header_block(request_headers(target.token))
    return b"".join(
        frame(HEADERS, END_HEADERS, stream, headers)
        + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 2 * rng.choice([10, 100, 1000]), 2)
    )


def _continuations(rng: random.Random, target: Target) -> bytes:
    first = frame(HEADERS, 0, 1, header_block([(b":method", b"POST")]))
    piece = header_block([(b"x", b"y" * 1000)])
    return first + frame(CONTINUATION, 0, 1, piece) * rng.choice([10, 1000])


def _deflated(rng: random.Random, target: Target) -> bytes:
    body = grpc_message(rng.randbytes(200), compressed=True)
    return _call(target.token, body, grpc_encoding=rng.choice([b"gzip", b"deflate", b"brotli"]))


FRAMES: Final[dict[str, Callable[[random.Random, Target], bytes]]] = {
    "noise": _noise,
    "settings": _many_settings,
    "pings": lambda rng, _: frame(PING, 0, 0, bytes(8)) * rng.choice([10, 3000]),
    "rapid_reset": _rapid_reset,
    "continuations": _continuations,
    "long_frame": lambda rng, _: frame(DATA, 0, 1, b"x" * 100, length=(1 << 24) - 1),
    "window_overflow": lambda rng, _: (
        3 * frame(WINDOW_UPDATE, 0, rng.choice([0, 1]), struct.pack(">I", (1 << 31) - 1))
    ),
    "window_zero": lambda rng, _: frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "data_unopened": lambda rng, _: frame(DATA, END_STREAM, rng.choice([1, 2, 7]), b"x" * 100),
    "even_stream": lambda rng, at: _call(at.token, grpc_message(b""), stream=2),
    "goaway_text": lambda rng, _: frame(
        GOAWAY, 0, 0, bytes(8) + b"\x1b[31mFORGED-TEXT\r\nFORGED-LINE goaway\x00" * 3
    ),
    "priorities": lambda rng, _: frame(PRIORITY, 0, 1, bytes(5)) * 1000,
    "bad_hpack": lambda rng, _: frame(HEADERS, END_HEADERS, 1, rng.randbytes(100)),
    "large_header": lambda rng, at: _call(
        at.token, grpc_message(b""), x_large=b"y" * rng.choice([9_000, 200_000])
    ),
    "authorization_controls": lambda rng, at: _call(
        at.token, grpc_message(b""), authorization=b"Bearer FORGED-SECRET\x1b[31m\r\n\x00\xff"
    ),
    "authorization_bytes": lambda rng, at: _call(
        at.token, grpc_message(b""), authorization=b"FORGED-SECRET" + rng.randbytes(40)
    ),
    "no_te": lambda rng, at: _call(at.token, grpc_message(b""), te=b"gzip"),
    "content_type": lambda rng, at: _call(
        at.token, grpc_message(b""), content_type=rng.choice([b"text/html", b"", b"\xff\x00"])
    ),
    "get": lambda rng, at: _call(at.token, grpc_message(b""), _method=b"GET"),
    "path": lambda rng, at: _call(
        at.token,
        grpc_message(b""),
        _path=rng.choice([b"", b"/", b"*", b"/a/\xff\x1b", b"/" * 9000]),
    ),
    "timeout": lambda rng, at: _call(
        at.token,
        grpc_message(b""),
        grpc_timeout=rng.choice([b"0n", b"-1S", b"99999999H", b"999999999999S", b"x", b""]),
    ),
    "encoding": _deflated,
    "short_message": lambda rng, at: _call(at.token, grpc_message(b"x" * 10, length=1000)),
    "long_length": lambda rng, at: _call(at.token, grpc_message(b"x" * 10, length=(1 << 32) - 1)),
    "two_messages": lambda rng, at: _call(at.token, grpc_message(b"") * 2),
    "no_message": lambda rng, at: _call(at.token, b""),
    "message_flag": lambda rng, at: _call(at.token, b"\x07" + grpc_message(b"x")[1:]),
}
