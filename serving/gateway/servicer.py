"""The service `cpcsam.v1.Segmentation`: requests are checked, sent to Triton and answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from cpcsam.grpc_errors import FullError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.context import Call
from serving.gateway.describe import description
from serving.gateway.inference.request_images import ImageDesk
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics, Stopwatch
from serving.gateway.rpc import RpcRunner
from serving.gateway.scheduling.admission import Admission, Ticket
from serving.gateway.scheduling.ordered_stream import answered_in_order
from serving.gateway.segmentation.dispatch import Segmenting
from serving.gateway.segmentation.responses import stream_response
from serving.gateway.validation.prompts import check_prompts
from serving.gateway.validation.request import check_request
from serving.gateway.vocabulary.service import ClassDesk

__all__ = ["SegmentationService"]


class SegmentationService(pb_grpc.SegmentationServicer):
    """Answers the calls of the API; one instance a gateway, used inside one event loop."""

    def __init__(
        self,
        rpc: RpcRunner,
        admission: Admission,
        triton: TritonClient,
        images: ImageDesk,
        segmenting: Segmenting,
        classes: ClassDesk,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._rpc = rpc
        self._admission = admission
        self._triton = triton
        self._images = images
        self._segmenting = segmenting
        self._classes = classes
        self._limits = limits
        self._metrics = metrics

    async def Segment(self, request: pb.SegmentRequest, context: Any) -> pb.SegmentResponse:  # noqa: N802
        """Answer with the masks of every prompt, or of every entity of classes."""
        return await self._rpc.answer(
            "Segment", request.request_id, lambda call: self._segment(request, call), context
        )

    async def SegmentStream(  # noqa: N802
        self, requests: AsyncIterator[pb.SegmentRequest], context: Any
    ) -> AsyncIterator[pb.SegmentStreamResponse]:
        """Answer each request of a stream as Segment does, in order."""

        async def answer(request: pb.SegmentRequest) -> pb.SegmentStreamResponse:
            outcome = await self._rpc.attempt(
                "SegmentStream",
                request.request_id,
                lambda call: self._segment_patiently(request, call),
                context,
            )
            return stream_response(request.request_id, outcome)

        answers = answered_in_order(requests, answer, self._limits.stream_window)
        async with aclosing(answers):
            async for response in answers:
                yield response

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: N802
        """Answer with the model, the limits, the versions and the classes."""
        return await self._rpc.answer("Describe", "", self._describe, context)

    async def ListClasses(  # noqa: N802
        self, request: pb.ListClassesRequest, context: Any
    ) -> pb.ListClassesResponse:
        """Answer with the caller's classes."""
        return await self._rpc.answer("ListClasses", "", self._classes.list, context)

    async def AddClass(  # noqa: N802
        self, request: pb.AddClassRequest, context: Any
    ) -> pb.ListClassesResponse:
        """Teach a class and answer with all."""

        async def add(call: Call) -> pb.ListClassesResponse:
            with self._admission.place(call.ticket):
                return await self._classes.add(request, call)

        return await self._rpc.answer("AddClass", request.name[:128], add, context)

    async def RemoveClass(  # noqa: N802
        self, request: pb.RemoveClassRequest, context: Any
    ) -> pb.ListClassesResponse:
        """Forget a class and answer with those that are left."""
        return await self._rpc.answer(
            "RemoveClass",
            request.name[:128],
            lambda call: self._classes.remove(request, call),
            context,
        )

    async def _segment_patiently(
        self, request: pb.SegmentRequest, call: Call
    ) -> pb.SegmentResponse:
        """Segment, and where the server is full try again until the time of the call is over."""
        while True:
            try:
                return await self._segment(request, call)
            except FullError as error:
                await asyncio.sleep(error.retry_s)
                call = replace(call, ticket=Ticket(call.ticket.client))

    async def _segment(self, request: pb.SegmentRequest, call: Call) -> pb.SegmentResponse:
        total = Stopwatch()
        with self._admission.place(call.ticket):
            with self._metrics.stage("validate") as validate:
                check_request(request, self._limits)
                image = await self._images.open(request, call)
                facts = await self._triton.facts(call.remaining_s)
                low_res_size = facts.low_res_size if facts.mask_prompts else 0
                check_prompts(request.prompts, image.size, low_res_size)
            with self._metrics.stage("triton") as triton:
                response = await self._segmenting.answer(request, image, call)
            self._metrics.prompts.inc(len(request.prompts))
        response.request_id = request.request_id
        response.image_id = image.key.image_id
        response.timings.validate_ms = validate.seconds * 1e3
        response.timings.triton_ms = triton.seconds * 1e3
        response.timings.total_ms = total.seconds * 1e3
        return response

    async def _describe(self, call: Call) -> pb.DescribeResponse:
        facts = await self._triton.facts(call.remaining_s)
        vocabulary = await self._classes.vocabulary(call)
        names = () if vocabulary is None else vocabulary.names
        return description(facts, self._limits, self._rpc.max_seconds, names)
