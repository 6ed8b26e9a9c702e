"""The service `cpcsam.v1.Segmentation`: requests are checked, sent to Triton and answered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import cpcsam
from cpcsam.contract import SEGMENT
from cpcsam.status import FullError
from cpcsam.transforms import IMAGE_FORMATS
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.answer import response_of
from serving.call import Call
from serving.embedding_cache import EmbeddingCache, ImageKey
from serving.limits import MAX_POINT_SLOTS, Limits
from serving.metrics import Metrics, Stopwatch
from serving.prompting import Prompting
from serving.rpc import RpcRunner
from serving.triton_answers import Encoded
from serving.triton_client import TritonClient
from serving.validation import check_prompts, check_request

__all__ = ["SegmentationService"]

HASHED_INLINE: Final = 256 * 1024
"""Bytes that are hashed in less time than another thread would take to begin."""


class SegmentationService(pb_grpc.SegmentationServicer):
    """Answers Segment and Describe; one instance a gateway, used inside one event loop."""

    def __init__(
        self, triton: TritonClient, limits: Limits, metrics: Metrics, rpc: RpcRunner
    ) -> None:
        self._triton = triton
        self._limits = limits
        self._metrics = metrics
        self._rpc = rpc
        self._prompting = Prompting(triton, EmbeddingCache(limits.cache_bytes, metrics))
        self._in_flight = 0

    async def Segment(self, request: pb.SegmentRequest, context: Any) -> pb.SegmentResponse:  # noqa: N802
        """Answer with the masks of every prompt."""
        return await self._rpc.answer(
            "Segment", request.request_id, lambda call: self._segment(request, call), context
        )

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: N802
        """Answer with the model, the limits and the versions."""
        return await self._rpc.answer("Describe", "", self._describe, context)

    async def _segment(self, request: pb.SegmentRequest, call: Call) -> pb.SegmentResponse:
        total = Stopwatch()
        with self._place():
            with self._metrics.stage("validate") as validate:
                check_request(request, self._limits)
                key = await self._key(request, call)
                image: bytes | Encoded = request.image_bytes
                if request.WhichOneof("image") == "image_id":
                    image = await self._prompting.known_image(key)
                    check_prompts(request.prompts, image.size)
            with self._metrics.stage("triton") as triton:
                found = await self._prompting.masks(
                    key, image, request.prompts, request.mask_selection, call
                )
            self._metrics.prompts.inc(len(request.prompts))
            response = response_of(request.request_id, key.image_id, found)
        response.timings.validate_ms = validate.seconds * 1e3
        response.timings.triton_ms = triton.seconds * 1e3
        response.timings.total_ms = total.seconds * 1e3
        return response

    async def _key(self, request: pb.SegmentRequest, call: Call) -> ImageKey:
        image_id = request.image_id
        if request.WhichOneof("image") != "image_id":
            image_id = await _sha256(request.image_bytes)
        facts = await self._triton.facts(call.remaining_s)
        return ImageKey(call.caller.tenant, facts.model_digest, image_id)

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

    async def _describe(self, call: Call) -> pb.DescribeResponse:
        triton = await self._triton.facts(call.remaining_s)
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
            ),
            gateway_version=cpcsam.__version__,
            triton_version=triton.triton_version,
        )


async def _sha256(content: bytes) -> str:
    if len(content) <= HASHED_INLINE:
        return hashlib.sha256(content).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
