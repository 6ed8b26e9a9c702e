"""Bounded reading of request bodies: their size, the time in which they come, and all together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from time import perf_counter
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from serving.http.config import HttpConfig
from serving.http.metrics import HttpMetrics
from serving.http.problems import Problem, quoted

__all__ = ["FORM", "JSON", "Room", "media_type", "read_body", "read_form"]

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
CHARSET: Final = "latin-1"
MAX_DIGITS: Final = 20
"""Digits of a Content-Length, as h11 admits them."""
RETRY_S: Final = 1.0
DRAIN_S: Final = 1.0
"""Seconds for which a refused body is read and dropped, so that its sender reads the answer."""


class Room:
    """Budget of the bytes of all bodies in flight; to be used inside one event loop.

    Args:
        most: bytes of all of them.
        metrics: shows them.
    """

    def __init__(self, most: int, metrics: HttpMetrics) -> None:
        self._most = most
        self._held = 0
        self._metrics = metrics

    def take(self, size: int) -> bool:
        """Take bytes, which `release` gives back; return False if there is no room."""
        if self._held and self._held + size > self._most:
            return False
        self._held += size
        self._metrics.held_bytes.set(self._held)
        return True

    def release(self, size: int) -> None:
        """Give bytes back."""
        self._held -= size
        self._metrics.held_bytes.set(self._held)


def media_type(request: Request) -> str:
    """Return the media type of a request's body, in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request) -> bytes:
    """Read a body of any type.

    Raises:
        Problem: 400 for a length that is none, 408 for a body that does not come in time, 413 for
            one that is too large, 429 if the bodies of all requests are.
    """
    return b"".join([chunk async for chunk in _bounded(request)])


async def read_form(request: Request, max_parts: int) -> dict[str, bytes]:
    """Read the parts of a `multipart/form-data` body, files and fields, by their names.

    All of them stay in memory, as `Room` admits them.

    Args:
        request: with such a body.
        max_parts: files, and as many fields.

    Raises:
        Problem: as `read_body`; and 400 for a body that is no form, or that names a part twice.
    """
    config: HttpConfig = request.app.state.config
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    # A caller's charset would name any of Python's codecs. This one keeps the bytes of fields.
    kind = f'{FORM}; boundary="{boundary.decode("latin-1")}"; charset={CHARSET}'
    headers = Headers({"content-type": kind})
    stream = _bounded(request)
    parser = _FormParser(
        headers,
        stream,
        max_files=max_parts,
        max_fields=max_parts,
        max_part_size=config.max_body_bytes,
    )
    parser.spool_max_size = config.max_body_bytes + 1  # never on a disk
    parts: dict[str, bytes] = {}
    try:
        form = await parser.parse()
        try:
            if not parser.is_complete:
                raise _no_form("no end of a form")
            for name, value in form.multi_items():
                if name in parts:
                    raise _no_form(f"two parts of the name {quoted(name)}")
                parts[name] = _content(value)
        finally:
            await form.close()
    except (MultiPartException, FormParserError, ValueError) as error:
        raise _no_form(str(error)) from None
    finally:
        await stream.aclose()
    return parts


class _FormParser(MultiPartParser):
    """Parser that tells whether the form had its last boundary."""

    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


def _content(value: str | UploadFile) -> bytes:
    if isinstance(value, str):
        return value.encode(CHARSET)
    with value.file as file:
        return file.read()


async def _bounded(request: Request) -> AsyncGenerator[bytes, None]:
    """Iterate over the chunks of a body as it comes, and count them."""
    config: HttpConfig = request.app.state.config
    metrics: HttpMetrics = request.app.state.metrics
    most = config.max_body_bytes
    length = request.headers.get("content-length")
    if length is not None and not (
        length.isascii() and length.isdecimal() and len(length) <= MAX_DIGITS
    ):
        raise _no_form("a Content-Length that is no number")
    started, size = perf_counter(), 0
    try:
        if length is not None and int(length) > most:
            raise _too_large(f"a Content-Length of {length}", most)
        async with asyncio.timeout(config.upload_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise _too_large("more bytes", most)
                _hold(request, len(chunk))
                yield chunk
    except TimeoutError:
        metrics.rejected.labels("slow").inc()
        raise Problem.of(
            408,
            "DEADLINE_EXCEEDED",
            f"body: got {size} bytes within {config.upload_s:g} s, expected all of it; "
            "send a smaller one or over a faster connection",
        ) from None
    except ClientDisconnect:
        raise asyncio.CancelledError from None
    except Problem as problem:
        metrics.rejected.labels("full" if problem.status == 429 else "body").inc()
        await _drain(request)
        raise
    finally:
        metrics.phase_seconds.labels("read").observe(perf_counter() - started)


def _hold(request: Request, size: int) -> None:
    """Count bytes until the request ends.

    Raises:
        Problem: 429, there is no room.
    """
    room: Room = request.app.state.room
    if not room.take(size):
        raise Problem.of(
            429,
            "RESOURCE_EXHAUSTED",
            "server: got no room for the body, as those of other requests fill it; "
            "expected fewer at a time; try again in a moment",
            retry_after_s=RETRY_S,
        )
    request.state.held_bytes += size


async def _drain(request: Request) -> None:
    """Read and drop what comes of a body for a moment: a reset connection would lose the answer."""
    if "expect" in request.headers:  # then nothing comes until it is requested
        return
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in request.stream():
                pass
    except (TimeoutError, ClientDisconnect, RuntimeError):
        pass


def _too_large(got: str, most: int) -> Problem:
    return Problem.of(
        413,
        "RESOURCE_EXHAUSTED",
        f"body: got {got}, expected at most {most} bytes; send a smaller image, or multipart, "
        "which needs no base64",
    )


def _no_form(got: str) -> Problem:
    return Problem.of(
        400, "INVALID_ARGUMENT", f"body: got {got}, expected {FORM}; see /openapi.json"
    )
