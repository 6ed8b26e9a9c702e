"""Servicer of `cpcsam.v1.Segmentation`: admits requests, validates them and runs inference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

from cpcsam import tracing
from cpcsam.grpc_errors import FullError, PreconditionError, UnavailableError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.calls.received import received_bytes
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.describe import describe_response
from serving.gateway.inference.request_images import RequestImage, RequestImages
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics, Stopwatch
from serving.gateway.phases import DECODE, QUEUE
from serving.gateway.rpc import RpcRunner
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.concurrency import ordered_map
from serving.gateway.scheduling.executors import Executors
from serving.gateway.scheduling.held_bytes import HeldBytes
from serving.gateway.segmentation.dispatch import SegmentationDispatcher
from serving.gateway.segmentation.mask_prompts import convert_masks, has_masks
from serving.gateway.segmentation.responses import stream_response
from serving.gateway.validation.prompts import check_calibration, check_prompts
from serving.gateway.validation.request import check_request
from serving.gateway.vocabulary.service import VocabularyService

__all__ = ["SegmentationService"]


class SegmentationService(pb_grpc.SegmentationServicer):
    """gRPC servicer of the API; one instance per gateway, used inside one event loop."""

    def __init__(
        self,
        rpc: RpcRunner,
        admission: Admission,
        images: RequestImages,
        dispatcher: SegmentationDispatcher,
        classes: VocabularyService,
        limits: Limits,
        metrics: Metrics,
        executors: Executors,
    ) -> None:
        self._rpc = rpc
        self._admission = admission
        self._images = images
        self._dispatcher = dispatcher
        self._classes = classes
        self._limits = limits
        self._metrics = metrics
        self._executors = executors
        self._held = HeldBytes(limits.max_held_bytes)

    async def Segment(  # noqa: N802
        self, request: pb.SegmentRequest, grpc_context: Any
    ) -> pb.SegmentResponse:
        """Return the masks of every prompt, or of every entity of classes, or everything."""
        return await self._rpc.run(
            "Segment",
            request.request_id,
            lambda context: self._segment(request, context),
            grpc_context,
        )

    async def SegmentStream(  # noqa: N802
        self, requests: AsyncIterator[pb.SegmentRequest], grpc_context: Any
    ) -> AsyncIterator[pb.SegmentStreamResponse]:
        """Yield the response or the failure of each request of a stream, in order."""

        async def respond(request: pb.SegmentRequest) -> pb.SegmentStreamResponse:
            outcome = await self._rpc.run_in_stream(
                "SegmentStream",
                request.request_id,
                lambda context: self._segment_patiently(request, context),
                grpc_context,
            )
            return stream_response(request.request_id, outcome)

        responses = ordered_map(respond, requests, self._limits.stream_window)
        async with aclosing(responses):
            async for response in responses:
                yield response

    async def Describe(  # noqa: N802
        self, request: pb.DescribeRequest, grpc_context: Any
    ) -> pb.DescribeResponse:
        """Return the model, the limits, the versions and the caller's classes."""
        return await self._rpc.run("Describe", "", self._describe, grpc_context)

    async def ListClasses(  # noqa: N802
        self, request: pb.ListClassesRequest, grpc_context: Any
    ) -> pb.ListClassesResponse:
        """Return the caller's classes."""
        return await self._rpc.run("ListClasses", "", self._classes.list, grpc_context)

    async def AddClass(  # noqa: N802
        self, request: pb.AddClassRequest, grpc_context: Any
    ) -> pb.ListClassesResponse:
        """Add a class learned from annotated images and return all classes."""

        async def add(context: RequestContext) -> pb.ListClassesResponse:
            client, size = context.permit.client, received_bytes()
            async with self._admission.enter(context.permit), self._held.hold(client, size):
                return await self._classes.add(request, context)

        return await self._rpc.run("AddClass", "", add, grpc_context, subject=request.name)

    async def RemoveClass(  # noqa: N802
        self, request: pb.RemoveClassRequest, grpc_context: Any
    ) -> pb.ListClassesResponse:
        """Remove a class and return the remaining ones."""
        return await self._rpc.run(
            "RemoveClass",
            "",
            lambda context: self._classes.remove(request, context),
            grpc_context,
            subject=request.name,
        )

    async def _segment_patiently(
        self, request: pb.SegmentRequest, context: RequestContext
    ) -> pb.SegmentResponse:
        """Segment; wait for a place and for Triton's time instead of being refused."""

        async def model(_: float) -> ModelInfo:
            return await context.model()  # the same for all tries, as it counts its requests

        while True:
            permit = Permit(context.permit.client, is_patient=True)
            try:
                tried = replace(context, permit=permit, fetch_model=model)
                return await self._segment(request, tried)
            except FullError:
                # Whoever lost its place to another client waits for one again.
                if not permit.is_dropped:
                    raise

    async def _segment(
        self, request: pb.SegmentRequest, context: RequestContext
    ) -> pb.SegmentResponse:
        total, client, size = Stopwatch(), context.permit.client, received_bytes()
        wait, span = context.permit.is_patient, tracing.current_span()
        async with AsyncExitStack() as stack:
            with context.phases.measure(QUEUE):
                await stack.enter_async_context(self._admission.enter(context.permit))
                await stack.enter_async_context(self._held.hold(client, size, wait=wait))
            validate = Stopwatch()
            image = await self._validate(request, context)
            validate.stop()
            triton = Stopwatch()
            response = await self._dispatcher.segment(request, image, context)
            triton.stop()
            self._metrics.prompts.inc(len(request.prompts))
        span.set({"cpcsam.cached": response.cached})
        response.request_id = request.request_id
        response.image_id = image.key.image_id
        if image.left_out:
            response.warnings.append(image.left_out)
        response.timings.validate_ms = validate.seconds * 1e3
        response.timings.triton_ms = triton.seconds * 1e3
        response.timings.total_ms = total.seconds * 1e3
        return response

    async def _validate(self, request: pb.SegmentRequest, context: RequestContext) -> RequestImage:
        """Check a request, open its image and convert its masks to logits."""
        check_request(request, self._limits)
        with context.phases.measure(DECODE):
            image = await self._images.open(request, context)
        model = await context.model()
        tracing.current_span().set(
            {
                "cpcsam.image.height": image.size[0],
                "cpcsam.image.width": image.size[1],
                "cpcsam.prompts": len(request.prompts),
                "cpcsam.model_version": model.model_version,
            }
        )
        low_res_size = model.low_res_size if model.mask_prompts else 0
        check_calibration(request.without_calibration, model.calibrates)
        check_prompts(request.prompts, image.size, low_res_size)
        if has_masks(request):
            await self._executors.pixels_of(image.size).run(
                context.permit.client,
                convert_masks,
                request,
                image.size,
                low_res_size,
                model.scale,
            )
        return image

    async def _describe(self, context: RequestContext) -> pb.DescribeResponse:
        model = await context.model()
        try:
            vocabulary = await self._classes.vocabulary(context)
        except (PreconditionError, UnavailableError):
            vocabulary = None  # calls that need the classes are refused with the reason
        names = () if vocabulary is None else vocabulary.all_names
        return describe_response(model, self._limits, self._rpc.max_seconds, names)
