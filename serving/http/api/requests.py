"""Request messages from JSON or from multipart bodies, whose parts hold the images."""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final, TypeVar

from google.protobuf.message import Message
from starlette.requests import Request

from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.bodies import FORM, JSON, media_type, read_body, read_form
from serving.http.metrics import HttpMetrics
from serving.http.problems import Problem, quoted
from serving.http.protojson import in_thread_if_large, parse_json

__all__ = ["read_add_class", "read_segment"]

REQUEST: Final = "request"
IMAGE: Final = "image"
EXAMPLE: Final = re.compile(r"image(0|[1-9][0-9]{0,2})")
MAX_EXAMPLES: Final = 256
"""Parts of one form; the gateway's own limit is lower."""

M = TypeVar("M", bound=Message)


async def read_segment(request: Request) -> pb.SegmentRequest:
    """Read a SegmentRequest: JSON, or the parts `image` and, optionally, `request` (JSON).

    Raises:
        Problem: the body is of another type, too large, or no such request.
    """
    if _is_json(request):
        return await _parse(request, await read_body(request), pb.SegmentRequest())
    parts = await read_form(request, max_parts=2)
    image = parts.pop(IMAGE, None)
    message = await _parse(request, parts.pop(REQUEST, b"{}"), pb.SegmentRequest())
    _require_none(parts, f"{IMAGE} and {REQUEST}")
    if image is not None:
        _require_no_image(message, IMAGE)
        message.image_bytes = image
    return message


async def read_add_class(request: Request) -> pb.AddClassRequest:
    """Read an AddClassRequest: JSON, or the part `request` and `image0`, `image1` and so on.

    Part `imageN` is the image of `examples[N]`.

    Raises:
        Problem: the body is of another type, too large, or no such request.
    """
    if _is_json(request):
        return await _parse(request, await read_body(request), pb.AddClassRequest())
    parts = await read_form(request, max_parts=MAX_EXAMPLES + 1)
    message = await _parse(request, parts.pop(REQUEST, b"{}"), pb.AddClassRequest())
    for name in [*parts]:
        found = EXAMPLE.fullmatch(name)
        if found is None:
            continue
        index = int(found[1])
        if index >= len(message.examples):
            raise _problem(name, f"no examples[{index}]", "one for each image", "add it")
        example = message.examples[index]
        _require_no_image(example, name)
        example.image_bytes = parts.pop(name)
    _require_none(parts, f"{REQUEST} and {IMAGE}0, {IMAGE}1, ...")
    return message


def _is_json(request: Request) -> bool:
    """Return whether the body is JSON, rather than a form.

    Raises:
        Problem: 415, it is neither.
    """
    kind = media_type(request)
    if kind not in (JSON, FORM):
        raise Problem.of(
            415,
            "INVALID_ARGUMENT",
            f"Content-Type: got {'none' if not kind else 'another'}, expected {JSON} or {FORM}; "
            "name the one that you send",
            "Content-Type",
        )
    return kind == JSON


async def _parse(request: Request, text: bytes, message: M) -> M:
    metrics: HttpMetrics = request.app.state.metrics
    started = perf_counter()
    try:
        return await in_thread_if_large(len(text), parse_json, text, message)
    finally:
        metrics.phase_seconds.labels("parse").observe(perf_counter() - started)


def _require_no_image(message: pb.SegmentRequest | pb.Example, part: str) -> None:
    if (other := message.WhichOneof("image")) is not None:
        raise _problem(part, f"{other} beside it", "one image", "leave one of the two out")


def _require_none(parts: dict[str, bytes], expected: str) -> None:
    if parts:
        raise _problem("body", f"a part {quoted(next(iter(parts)))}", expected, "leave it out")


def _problem(field: str, got: str, expected: str, fix: str) -> Problem:
    return Problem.of(
        400, "INVALID_ARGUMENT", f"{field}: got {got}, expected {expected}; {fix}", field
    )
