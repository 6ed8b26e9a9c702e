"""Remote-server protocol of X-AnyLabeling, at `/x-anylabeling`.

Its client sends the whole image with every click. The image's hash is its `image_id`, so the
gateway gets the image itself only when it does not know it, and encodes it once.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Final

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.bodies import read_body
from serving.http.caller import Caller, caller_of
from serving.http.config import HttpConfig
from serving.http.gateway import Gateway
from serving.http.problems import Problem, quoted
from serving.http.x_anylabeling.models import CLASSES, models_of
from serving.http.x_anylabeling.predict import Prediction, shapes_of

__all__ = ["PREFIX", "routes"]

PREFIX: Final = "/x-anylabeling"
TOKEN_HEADER: Final = "token"
MAX_VALUES: Final = 10_000
"""Values of a request's JSON, which holds an image, some thresholds and the marks of one image."""


def routes(config: HttpConfig) -> list[BaseRoute]:
    """Return the routes that X-AnyLabeling calls, under PREFIX."""
    return [
        Route(f"{PREFIX}/v1/models", _models, methods=["GET"]),
        Route(f"{PREFIX}/v1/models/{{model_id}}/info", _model_info, methods=["GET"]),
        Route(f"{PREFIX}/v1/predict", _predict, methods=["POST"]),
    ]


async def _models(request: Request) -> JSONResponse:
    description = await _description(request)
    return _success(models_of(description))


async def _model_info(request: Request) -> JSONResponse:
    model_id = request.path_params["model_id"]
    models = models_of(await _description(request))
    if model_id not in models:
        expected = ", ".join(models)
        detail = f"model_id: got {quoted(model_id)}, expected one of {expected}; reload the models"
        raise Problem.of(404, "NOT_FOUND", detail, field="model_id")
    return _success({"model_id": model_id, **models[model_id]})


async def _predict(request: Request) -> JSONResponse:
    caller = _caller(request)
    body = await asyncio.to_thread(_parse, await read_body(request))
    classes: list[str] = []
    if isinstance(body, dict) and body.get("model") == CLASSES:
        classes = [*(await _description(request)).classes]
    prediction = await asyncio.to_thread(Prediction.of_json, body, caller.request_id, classes)
    response = await _segment(request, prediction, caller)
    # The polygons of everything are megabytes of JSON.
    return await asyncio.to_thread(_shapes, prediction, response)


async def _description(request: Request) -> pb.DescribeResponse:
    gateway: Gateway = request.app.state.gateway
    answer: pb.DescribeResponse = await gateway.call(
        "Describe", pb.DescribeRequest(), _caller(request)
    )
    return answer


async def _segment(request: Request, prediction: Prediction, caller: Caller) -> pb.SegmentResponse:
    """Ask by the image's id, and again with the image where the gateway does not know it."""
    gateway: Gateway = request.app.state.gateway
    try:
        answer: pb.SegmentResponse = await gateway.call("Segment", prediction.request, caller)
        return answer
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
    answer = await gateway.call("Segment", prediction.with_image(), caller)
    return answer


def _caller(request: Request) -> Caller:
    """Read the caller; the client sends its key in a header of its own, empty if it has none."""
    caller = caller_of(request)
    token = request.headers.get(TOKEN_HEADER)
    if not token:
        return caller
    if not (token.isascii() and token.isprintable()):
        detail = "Token: got other characters, expected printable ASCII; copy it again"
        raise Problem.of(401, "UNAUTHENTICATED", detail)
    return replace(caller, token=token)


def _parse(content: bytes) -> object:
    if sum(map(content.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        try:
            parsed: object = json.loads(content)
            return parsed
        except (ValueError, RecursionError) as error:
            got = str(error)
    else:
        got = f"more than {MAX_VALUES} values"
    detail = f"body: got {got}, expected JSON with model, image and params; see the client's log"
    raise Problem.of(400, "INVALID_ARGUMENT", detail)


def _shapes(prediction: Prediction, response: pb.SegmentResponse) -> JSONResponse:
    return _success(shapes_of(prediction, response))


def _success(data: object) -> JSONResponse:
    return JSONResponse({"success": True, "data": data})
