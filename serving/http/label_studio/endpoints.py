"""Endpoints of the protocol that Label Studio speaks to machine-learning backends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import grpc
from grpc.aio import AioRpcError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cpcsam.errors import ContractError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.bodies import read_body
from serving.http.caller import caller_of
from serving.http.gateway import Gateway
from serving.http.label_studio.context import Interaction, read_interaction
from serving.http.label_studio.label_config import LabelConfig, parse_label_config
from serving.http.label_studio.predictions import Predictor, version_of
from serving.http.label_studio.records import (
    invalid,
    list_member,
    object_member,
    parse_object,
    text_member,
)
from serving.http.label_studio_config import LabelStudioConfig
from serving.http.problems import Problem

__all__ = ["Endpoints"]

MODEL_CLASS: Final = "CPC-SAM"
HEALTH_S: Final = 0.7
SETUP_S: Final = 2.5
"""Label Studio waits for 1 second and for 3."""
MAX_TASKS: Final = 10_000
LABEL_CONFIG: Final = "label_config"


class Endpoints:
    """Endpoints with the state that they share.

    Args:
        config: of the Label Studio whose images are read; None reads none.
    """

    def __init__(self, config: LabelStudioConfig | None) -> None:
        self._predictor = Predictor(config)

    async def health(self, request: Request) -> Response:
        """Check the caller's token, for which Label Studio has a message of its own.

        A gateway that is only slow counts as healthy.
        """
        try:
            await _describe(request, HEALTH_S)
        except AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        return JSONResponse({"status": "UP", "model_class": MODEL_CLASS})

    async def setup(self, request: Request) -> Response:
        """Check the caller's token and the labelling configuration; answer the model's version.

        Label Studio's own address and token, which the request holds, are not used.
        """
        record = await _read(request)
        model = (await _describe(request, SETUP_S)).model
        if record.get("schema"):
            await asyncio.to_thread(parse_label_config, text_member(record, "schema"))
        return JSONResponse({"model_version": version_of(model.name, model.version)})

    async def predict(self, request: Request) -> Response:
        """Answer what an annotator has drawn in one task, or pre-annotate tasks."""
        caller = caller_of(request)
        record = await _read(request)
        gateway: Gateway = request.app.state.gateway
        tasks = list_member(record, "tasks")
        if not 0 < len(tasks) <= MAX_TASKS or not all(isinstance(task, dict) for task in tasks):
            raise invalid("tasks", f"{len(tasks)} items", f"1 to {MAX_TASKS} tasks", "send fewer")
        config = await asyncio.to_thread(parse_label_config, text_member(record, LABEL_CONFIG))
        context = object_member(object_member(record, "params"), "context")
        drawn = list_member(context, "result")
        results: list[Any]
        if drawn:
            interaction = await asyncio.to_thread(_interaction, drawn, config)
            task = tasks[0]
            found = await self._predictor.interactive(task, interaction, config, gateway, caller)
            results = [found]
        elif context:
            # The annotator has taken the last click back.
            results = [{"result": [], "score": 0.0}]
        else:
            results = await self._predictor.batch(tasks, config, gateway, caller)
        text = await asyncio.to_thread(json.dumps, {"results": results})
        return Response(text, media_type="application/json")

    async def webhook(self, request: Request) -> Response:
        """Take note of annotations, which change nothing.

        Raises:
            Problem: 501, training is requested.
        """
        if text_member(await _read(request), "action") == "START_TRAINING":
            raise Problem.of(
                501,
                "UNIMPLEMENTED",
                "action: got START_TRAINING, expected annotations; export the project in COCO's "
                "format and run `make train`",
                "action",
            )
        return JSONResponse({"status": "ok"})


async def _describe(request: Request, most_s: float) -> pb.DescribeResponse:
    caller = caller_of(request)
    gateway: Gateway = request.app.state.gateway
    own = replace(caller, timeout_s=min(caller.timeout_s, most_s))
    answer: pb.DescribeResponse = await gateway.call("Describe", pb.DescribeRequest(), own)
    return answer


async def _read(request: Request) -> Mapping[str, Any]:
    return await asyncio.to_thread(parse_object, await read_body(request))


def _interaction(drawn: list[Any], config: LabelConfig) -> Interaction:
    try:
        return read_interaction(drawn, config)
    except ContractError as error:
        raise Problem.of(400, "INVALID_ARGUMENT", str(error), "context.result") from None
