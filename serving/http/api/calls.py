"""Calls of the API: a JSON or multipart body becomes a message, the answer becomes JSON."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from cpcsam.v1 import segmentation_pb2 as pb
from serving.common.request_ids import adopt_request_id
from serving.http.api.requests import read_add_class, read_segment
from serving.http.bodies import JSON
from serving.http.caller import Caller, caller_of
from serving.http.gateway import Gateway
from serving.http.metrics import HttpMetrics
from serving.http.problems import Problem
from serving.http.protojson import in_thread_if_large, json_of_message

__all__ = ["add_class", "describe", "everything", "list_classes", "remove_class", "segment"]


async def segment(request: Request) -> Response:
    """Segment one image: prompts, classes or everything."""
    caller = caller_of(request)
    message = await read_segment(request)
    return await _answer(request, "Segment", message, caller)


async def everything(request: Request) -> Response:
    """Segment everything in one image, with the defaults where `everything` is not given.

    Raises:
        Problem: 400, the request has prompts or classes.
    """
    caller = caller_of(request)
    message = await read_segment(request)
    for field in ("prompts", "classes"):
        if getattr(message, field):
            raise Problem.of(
                400,
                "INVALID_ARGUMENT",
                f"{field}: got some, expected none for everything; post them to /v1/segment",
                field,
            )
    message.everything.SetInParent()
    return await _answer(request, "Segment", message, caller)


async def list_classes(request: Request) -> Response:
    """List the classes of the caller's tenant."""
    return await _answer(request, "ListClasses", pb.ListClassesRequest(), caller_of(request))


async def add_class(request: Request) -> Response:
    """Teach a class by annotated images."""
    caller = caller_of(request)
    message = await read_add_class(request)
    return await _answer(request, "AddClass", message, caller)


async def remove_class(request: Request) -> Response:
    """Forget a class."""
    message = pb.RemoveClassRequest(name=request.path_params["name"])
    return await _answer(request, "RemoveClass", message, caller_of(request))


async def describe(request: Request) -> Response:
    """Tell which model answers and within which limits."""
    return await _answer(request, "Describe", pb.DescribeRequest(), caller_of(request))


def _adopt_id(request: Request, message: pb.SegmentRequest, caller: Caller) -> Caller:
    """Let a request without the header be known by the id in its body, as by gRPC."""
    request_id = adopt_request_id(request.headers.items(), message.request_id)
    request.state.request_id = request_id
    message.request_id = message.request_id or request_id
    return replace(caller, request_id=request_id)


async def _answer(request: Request, method: str, message: Message, caller: Caller) -> Response:
    gateway: Gateway = request.app.state.gateway
    metrics: HttpMetrics = request.app.state.metrics
    if isinstance(message, pb.SegmentRequest):
        caller = _adopt_id(request, message, caller)
    answer: Any = await gateway.call(method, message, caller)
    started = perf_counter()
    text = await in_thread_if_large(answer.ByteSize(), json_of_message, answer)
    metrics.phase_seconds.labels("print").observe(perf_counter() - started)
    return Response(text, media_type=JSON)
