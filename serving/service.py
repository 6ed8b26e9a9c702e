"""The service `cpcsam.v1.Segmentation`: requests are checked, sent to Triton and answered."""

from __future__ import annotations

from typing import Any

import cpcsam
from cpcsam.contract import SEGMENT
from cpcsam.errors import ContractError
from cpcsam.transforms import IMAGE_FORMATS
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.admission import Admission
from serving.call import Call
from serving.class_desk import ClassDesk
from serving.images import ImageDesk
from serving.limits import MAX_POINT_SLOTS, Limits
from serving.metrics import Metrics, Stopwatch
from serving.rpc import RpcRunner
from serving.segmenting import Segmenting
from serving.triton_client import TritonClient
from serving.validation import check_prompts, check_request

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

    async def SegmentStream(self, requests: Any, context: Any) -> None:  # noqa: N802
        """Refuse streams for now."""

        async def refuse(call: Call) -> None:
            raise ContractError.of(
                "SegmentStream", got="a stream", expected="single requests", fix="call Segment"
            )

        await self._rpc.answer("SegmentStream", "", refuse, context)

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

    async def _segment(self, request: pb.SegmentRequest, call: Call) -> pb.SegmentResponse:
        total = Stopwatch()
        with self._admission.place(call.ticket):
            with self._metrics.stage("validate") as validate:
                check_request(request, self._limits)
                image = await self._images.open(request, call)
                check_prompts(request.prompts, image.size)
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
        triton = await self._triton.facts(call.remaining_s)
        vocabulary = await self._classes.vocabulary(call)
        return pb.DescribeResponse(
            model=pb.Model(
                name=SEGMENT.name,
                version=triton.model_version,
                size=triton.model_size,
                image_size=triton.image_size,
            ),
            limits=pb.Limits(
                max_image_bytes=self._limits.max_image_bytes,
                max_pixels=self._limits.max_pixels,
                max_prompts=self._limits.max_prompts,
                max_points=MAX_POINT_SLOTS,
                max_in_flight=self._limits.max_in_flight,
                image_formats=IMAGE_FORMATS,
                cache_bytes=self._limits.cache_bytes,
                max_queue_seconds=self._limits.max_queue_s,
                max_tiles=self._limits.max_tiles,
            ),
            gateway_version=cpcsam.__version__,
            triton_version=triton.triton_version,
            classes=[] if vocabulary is None else vocabulary.names,
        )
