"""The service `cpcsam.v1.Segmentation`: requests are checked, sent to Triton and answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, TypeVar

import grpc

import cpcsam
from cpcsam.contract import DECODER_MAX_BATCH, SEGMENT
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.status import DeadlineError, LimitError, status_of_error
from cpcsam.transforms import IMAGE_FORMATS
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.answer import response_of
from serving.chunks import PromptChunk, chunk_prompts
from serving.limits import MAX_POINT_SLOTS, Limits
from serving.metrics import Metrics, Stopwatch
from serving.triton_client import ChunkMasks, Encoded, TritonClient
from serving.validation import check_request

__all__ = ["SegmentationService"]

LOG = logging.getLogger(__name__)
Request = TypeVar("Request")
Response = TypeVar("Response")

CONCURRENT_CHUNKS: Final = DECODER_MAX_BATCH
"""Chunks of one request that decode at once: as many as one decoder batch holds. More would only
stand in the queue before the prompts of others."""


class SegmentationService(pb_grpc.SegmentationServicer):
    """Answers Segment and Describe; one instance a gateway, used inside one event loop."""

    def __init__(
        self, triton: TritonClient, limits: Limits, metrics: Metrics, max_seconds: float
    ) -> None:
        self._triton = triton
        self._limits = limits
        self._metrics = metrics
        self._max_seconds = max_seconds
        self._in_flight = 0

    async def Segment(self, request: pb.SegmentRequest, context: Any) -> pb.SegmentResponse:  # noqa: N802
        """Answer with the masks of every prompt."""
        return await self._answer("Segment", request.request_id, self._segment, request, context)

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: N802
        """Answer with the model, the limits and the versions."""
        return await self._answer("Describe", "", self._describe, request, context)

    async def _answer(
        self,
        method: str,
        request_id: str,
        work: Callable[[Request, float], Awaitable[Response]],
        request: Request,
        context: Any,
    ) -> Response:
        """Do the work within the caller's deadline; turn errors into statuses; count and log."""
        watch = Stopwatch()
        remaining_s = context.time_remaining()
        timeout_s = (
            self._max_seconds if remaining_s is None else min(self._max_seconds, remaining_s)
        )
        code = grpc.StatusCode.CANCELLED  # stays where the caller gives up
        try:
            async with asyncio.timeout(timeout_s):
                response = await work(request, monotonic() + timeout_s)
            code = grpc.StatusCode.OK
            return response
        except TimeoutError:
            code, message = grpc.StatusCode.DEADLINE_EXCEEDED, str(_out_of_time(timeout_s))
        except CpcSamError as error:
            code, message = status_of_error(error), str(error)
            self._count_refusal(error)
        except Exception:
            LOG.exception("%s %r failed", method, request_id)
            code, message = grpc.StatusCode.INTERNAL, "internal error; see the gateway's log"
        finally:
            if code is grpc.StatusCode.CANCELLED and watch.seconds >= timeout_s:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            self._metrics.request_seconds.labels(method, code.name).observe(watch.seconds)
            LOG.info("%s %r: %s, %.1f ms", method, request_id, code.name, watch.seconds * 1e3)
        await context.abort(code, message)
        raise AssertionError("abort raises")

    def _count_refusal(self, error: CpcSamError) -> None:
        if isinstance(error, ContractError | LimitError):
            reason = "invalid" if isinstance(error, ContractError) else "over_limit"
            self._metrics.rejected.labels(
                "in_flight" if isinstance(error, FullError) else reason
            ).inc()

    async def _segment(self, request: pb.SegmentRequest, deadline: float) -> pb.SegmentResponse:
        total = Stopwatch()
        with self._place():
            with self._metrics.stage("validate") as validate:
                check_request(request, self._limits)
            chunks = chunk_prompts(request.prompts)
            with self._metrics.stage("triton") as triton:
                first = await self._triton.segment(
                    request.image_bytes,
                    chunks[0],
                    request.mask_selection,
                    with_embeddings=len(chunks) > 1,
                    request_id=request.request_id,
                    timeout_s=_until(deadline),
                )
                masks = [first.masks]
                if first.encoded is not None:
                    masks += await self._decode(first.encoded, chunks[1:], request, deadline)
            self._metrics.prompts.inc(len(request.prompts))
            response = response_of(request.request_id, first.original_size, masks)
        response.timings.validate_ms = validate.seconds * 1e3
        response.timings.triton_ms = triton.seconds * 1e3
        response.timings.total_ms = total.seconds * 1e3
        return response

    async def _decode(
        self,
        encoded: Encoded,
        chunks: Sequence[PromptChunk],
        request: pb.SegmentRequest,
        deadline: float,
    ) -> list[ChunkMasks]:
        """Decode chunks side by side; the first failure cancels the others."""
        places = asyncio.Semaphore(CONCURRENT_CHUNKS)

        async def decode(chunk: PromptChunk) -> ChunkMasks:
            async with places:
                return await self._triton.decode(
                    encoded,
                    chunk,
                    request.mask_selection,
                    request_id=request.request_id,
                    timeout_s=_until(deadline),
                )

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(decode(chunk)) for chunk in chunks]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places for requests in work; with none free, refuse at once."""
        # What was given up here but still occupies Triton counts too.
        busy = self._in_flight + self._triton.abandoned
        if busy >= self._limits.max_in_flight:
            raise FullError.of(
                "requests in work",
                got=f"{busy} already",
                expected=f"fewer than {self._limits.max_in_flight}",
                fix="try again in a moment",
            )
        self._in_flight += 1
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.dec()

    async def _describe(self, _: pb.DescribeRequest, deadline: float) -> pb.DescribeResponse:
        triton = await self._triton.describe(_until(deadline))
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
            ),
            gateway_version=cpcsam.__version__,
            triton_version=triton.triton_version,
        )


class FullError(LimitError):
    """All places for requests in work are taken."""


def _until(deadline: float) -> float:
    """Seconds left, to hand on; at least a millisecond, for 0 would mean no deadline."""
    return max(deadline - monotonic(), 1e-3)


def _out_of_time(timeout_s: float) -> CpcSamError:
    return DeadlineError.of(
        "deadline",
        got=f"no answer within {timeout_s:.3g} s",
        expected="one sooner",
        fix="allow more time",
    )
