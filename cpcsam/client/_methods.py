"""RPCs of the clients, written once as coroutines for both blocking and asyncio callers.

Each method awaits only the client's `Connection`. The asyncio connection suspends; the blocking one
never does, so that its coroutines run to completion synchronously.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence

import grpc

from cpcsam import tracing
from cpcsam.client._base import HEALTHY, BaseClient
from cpcsam.client._protobuf import (
    add_class_request,
    classes_of,
    description_of,
    message_of,
    result_of,
    segment_request,
)
from cpcsam.client._retry import Attempts, checked_timeout
from cpcsam.client._stream import StreamSession
from cpcsam.client.images import ImageLike
from cpcsam.client.masks import MaskFormat
from cpcsam.client.prompts import Prompt
from cpcsam.client.requests import ClassSearch, Everything, Example, SegmentRequest
from cpcsam.client.results import ClassInfo, Description, SegmentResult
from cpcsam.contract import MaskSelection
from cpcsam.errors import CpcSamError
from cpcsam.grpc_errors import NotFoundError
from cpcsam.images.options import ReadOptions
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["ClientMethods"]


class ClientMethods(BaseClient):
    """Public calls of a client, as coroutines over its connection."""

    async def segment(
        self,
        image: ImageLike,
        prompts: Sequence[Prompt] = (),
        *,
        classes: Sequence[str] = (),
        class_search: ClassSearch | None = None,
        everything: Everything | None = None,
        mask_selection: MaskSelection = MaskSelection.SINGLE,
        mask_format: MaskFormat = MaskFormat.COCO_RLE,
        low_res_masks: bool = False,
        tile_size: int | None = None,
        tile_overlap: float | None = None,
        request_id: str = "",
        read_options: ReadOptions | None = None,
        calibrate: bool = True,
    ) -> SegmentResult:
        """Segment an image by prompts, by class names, or everything in it.

        Give exactly one of `prompts`, `classes` and `everything`; `everything` may stand beside
        `classes` that were added by text, which are chosen among its masks.

        Args:
            image: (H, W, 3) uint8 RGB array, Pillow image, bytes or path of an image file, or the
                `image_id` of an earlier result. Arrays and Pillow images are sent as PNG; encode
                them once with `encode_image` when they are segmented repeatedly.
            prompts: one per entity; coordinates are pixels of the original image, points (X, Y)
                and boxes XYXY.
            classes: names of classes that the server knows; finds all their entities.
            class_search: thresholds of the class search, for `classes`.
            everything: parameters of the automatic mask generator; `Everything()` takes the
                server's defaults.
            mask_selection: masks returned per prompt: the single mask, the best of three, or all.
            mask_format: encoding of the returned masks.
            low_res_masks: whether to return mask logits, (4G, 4G) float32, for use as a
                `mask_input`; for `prompts` only.
            tile_size: side of the overlapping tiles that a large image is split into, in pixels; 0
                uses the whole image, None the model's own window (`Description.window`). Classes
                have the tile size that they were added with.
            tile_overlap: overlap of neighbouring tiles, as a fraction of their side in [0, 1);
                None uses the server's default.
            request_id: appears in the result and in the gateway's log.
            read_options: page, channels and intensity of the image file; None leaves them to the
                file and the model.
            calibrate: False takes the prompts as they are given, if the model calibrates them
                (`Description.calibrates`); for `prompts` only.

        Returns:
            The masks of each prompt or found entity, with scores, boxes and areas in pixels of the
            original image.

        Raises:
            ContractError: the image, a prompt or a name is invalid.
            PreconditionError: `calibrate` is False, and the model cannot do without.
            LimitError: the request exceeds a limit, or the gateway is full (FullError).
            NotFoundError: the server no longer knows the ImageId, or does not know the class.
            AuthenticationError: the gateway requires a token, and a different one than given.
            UnavailableError: the gateway, or the server behind it, cannot be reached.
            DeadlineError: no response within `timeout_s`.
            ServingError: any other failure of the service.
        """
        return await self._send(
            SegmentRequest(
                image,
                prompts,
                classes=classes,
                class_search=class_search,
                everything=everything,
                mask_selection=mask_selection,
                mask_format=mask_format,
                low_res_masks=low_res_masks,
                tile_size=tile_size,
                tile_overlap=tile_overlap,
                request_id=request_id,
                read_options=read_options,
                calibrate=calibrate,
            )
        )

    async def send(self, request: SegmentRequest) -> SegmentResult:
        """Send a prepared request, as `segment` does with its arguments.

        Args:
            request: the image and the parameters of `segment`.

        Returns:
            The result, as of `segment`.

        Raises:
            CpcSamError: as `segment`.
        """
        return await self._send(request)

    async def _send(self, request: SegmentRequest) -> SegmentResult:
        with tracing.span("segment"):
            return await self._send_once_or_twice(request)

    async def _send_once_or_twice(self, request: SegmentRequest) -> SegmentResult:
        message, attempts = segment_request(request), self._attempts()
        # Encoding and hashing an image would block an event loop.
        *by_id, with_bytes = await self._connection.offload(
            self._known_images.candidates, message, request.image
        )
        for candidate in by_id:
            try:
                return result_of(await self._call("Segment", candidate, attempts), request.prompts)
            # The server may have evicted the image; the bytes are sent below.
            except NotFoundError:
                self._known_images.discard(candidate)
        response: pb.SegmentResponse = await self._call("Segment", with_bytes, attempts)
        self._known_images.add(response)
        return result_of(response, request.prompts)

    async def ask(self, request: SegmentRequest) -> SegmentResult:
        """Send a prepared request; alias of `send`.

        Args:
            request: as of `send`.

        Returns:
            The result, as of `segment`.

        Raises:
            CpcSamError: as `segment`.
        """
        return await self._send(request)

    async def segment_stream(
        self,
        requests: Iterable[SegmentRequest] | AsyncIterable[SegmentRequest],
        *,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[SegmentResult | CpcSamError, None]:
        """Segment many images over one bidirectional stream, in the order of the requests.

        Requests are consumed with backpressure, only as far ahead of the results as the server and
        the connection buffer, so the iterable may be endless. The server bounds the time of each
        request. A broken stream is not resumed.

        Args:
            requests: one per image, from an iterable or an asynchronous iterable.
            timeout_s: time limit of the whole stream in seconds; None for no limit.

        Yields:
            The result of each request, or its error if that request alone failed.

        Raises:
            ConfigError: no such time limit.
            CpcSamError: as `segment`, if the stream itself fails.
        """
        limit_s = math.inf if timeout_s is None else checked_timeout(timeout_s)
        # For its deadline and messages only, as a broken stream is not resumed.
        attempts = Attempts(self._endpoint.address, limit_s, retry=False)
        session = StreamSession()
        answers = self._connection.stream("SegmentStream", session.encode, requests, timeout_s)
        try:
            async for answer in answers:
                self._known_images.add(answer.response)
                yield session.outcome(answer)
            session.require_answered()
        except grpc.RpcError as error:
            raise attempts.failure(error) from error
        finally:
            await answers.aclose()

    async def describe(self) -> Description:
        """Return the served model, the limits and the defaults of the server.

        Raises:
            CpcSamError: as `segment`.
        """
        return description_of(await self._call("Describe", pb.DescribeRequest()))

    async def classes(self) -> tuple[ClassInfo, ...]:
        """List the classes that the server knows.

        Raises:
            CpcSamError: as `segment`.
        """
        return classes_of(await self._call("ListClasses", pb.ListClassesRequest()))

    async def add_class(
        self,
        name: str,
        examples: Sequence[Example] = (),
        *,
        texts: Sequence[str] = (),
        negatives: Sequence[str] = (),
        tile_size: int | None = None,
    ) -> tuple[ClassInfo, ...]:
        """Add a class by a few annotated images (few-shot), by texts (zero-shot), or by both.

        Args:
            name: of the new class.
            examples: a few images, each with all its entities of the class annotated.
            texts: that name the class, synonyms of each other; for servers with a CLIP
                (`Description.clip`).
            negatives: texts of what it must not be taken for; none takes the server's.
            tile_size: for the first class: side of the tiles that images are split into, in
                pixels; small entities need small tiles. 0 uses whole images, None the model's own
                window.

        Returns:
            All classes that the server knows now.

        Raises:
            ContractError: an example, a text or the name is invalid.
            ExistsError: a class of this name exists.
            ForbiddenError: the token may not change classes.
            PreconditionError: the gateway stores no classes, or there are texts, and the server
                has no CLIP or another one than for the known classes.
            UnavailableError: also where the connection broke, after which the class may be there.
            CpcSamError: as `segment`.
        """
        request = await self._connection.offload(
            add_class_request, name, examples, tile_size, texts, negatives
        )
        return classes_of(await self._call("AddClass", request, self._attempts(repeatable=False)))

    async def remove_class(self, name: str) -> tuple[ClassInfo, ...]:
        """Remove a class from the server.

        Args:
            name: of the class.

        Returns:
            The remaining classes.

        Raises:
            NotFoundError: there is no such class.
            CpcSamError: as `add_class`.
        """
        request = message_of(pb.RemoveClassRequest, name=name)
        return classes_of(
            await self._call("RemoveClass", request, self._attempts(repeatable=False))
        )

    async def healthy(self) -> bool:
        """Return whether the gateway is reachable and reports that it serves; never retries."""
        try:
            answer = await self._connection.call("CheckHealth", b"", self._timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer == HEALTHY)
