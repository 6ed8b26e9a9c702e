"""Python client of the gateway.

    from cpcsam.client import Prompt, SegmentationClient

    with SegmentationClient("127.0.0.1:50051") as client:
        result = client.segment("cells.png", [Prompt.click(120, 80)])
        mask = result.masks[0][0].array  # (H, W) bool
        nuclei = client.segment("cells.png", classes=["nucleus"])

`cpcsam.async_client` offers the same to asyncio. It needs numpy, Pillow, grpcio, protobuf and
pycocotools, and never torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from cpcsam.channel import DEFAULT_ADDRESS, Endpoint
from cpcsam.contract import MaskSelection
from cpcsam.image_file import ImageLike, encode_image
from cpcsam.messages import (
    add_class_request,
    classes_of,
    description_of,
    result_of,
    segment_request,
)
from cpcsam.prompt import Prompt
from cpcsam.questions import ClassSearch, Example
from cpcsam.results import ClassInfo, Description, ImageId, Mask, SegmentResult
from cpcsam.retries import Attempts
from cpcsam.sent_images import SentImages
from cpcsam.status import NotFoundError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

__all__ = [
    "HEALTHY",
    "HEALTH_CHECK",
    "ClassInfo",
    "ClassSearch",
    "Description",
    "Example",
    "ImageId",
    "ImageLike",
    "Mask",
    "MaskSelection",
    "Prompt",
    "SegmentResult",
    "SegmentationClient",
    "encode_image",
]

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
"""The standard health messages are one enum; spelled here, they need no further package."""
HEALTHY: Final = b"\x08\x01"
"""HealthCheckResponse with status SERVING, serialised."""

Response = TypeVar("Response")


class SegmentationClient:
    """A connection to one gateway; may be shared by threads.

    Calls are tried again, within their time, while the gateway cannot be reached or is full.

    An image is sent once: asked about again, it is only named, and sent anew if the server has
    forgotten it.

    Args:
        address: HOST:PORT of the gateway.
        timeout_s: longest time for one call, tries again included.
        retry: whether to try again at all.
        token: bearer token, where the gateway asks for one.
        tls: whether the gateway speaks TLS.
        ca: file of the certificates to trust, PEM; None trusts those of the system. Implies tls.

    Raises:
        ConfigError: the token or the file of certificates cannot be used.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 60.0,
        retry: bool = True,
        token: str | None = None,
        tls: bool = False,
        ca: Path | None = None,
    ) -> None:
        self._endpoint = Endpoint(address, token, tls, ca)
        self._timeout_s = timeout_s
        self._retry = retry
        self._sent = SentImages()
        self._channel = self._endpoint.channel()
        self._stub: Any = pb_grpc.SegmentationStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; calls in work are cancelled."""
        self._channel.close()

    def segment(
        self,
        image: ImageLike,
        prompts: Sequence[Prompt] = (),
        *,
        classes: Sequence[str] = (),
        class_search: ClassSearch | None = None,
        mask_selection: MaskSelection = MaskSelection.SINGLE,
        request_id: str = "",
    ) -> SegmentResult:
        """Segment what the prompts point at, or all entities of classes.

        Args:
            image: an array and a Pillow image are sent as PNG, bytes and files as they are. To ask
                about an array again and again, encode it once with `encode_image`.
            prompts: one for each entity.
            classes: instead of prompts, names of classes that the server knows.
            class_search: how their entities are looked for.
            mask_selection: which masks answer a prompt.
            request_id: appears in the answer and in the gateway's log.

        Raises:
            ContractError: the image, a prompt or a name is wrong.
            LimitError: the request is over a limit, or the gateway is full (FullError).
            NotFoundError: the server does not know an ImageId any more.
            AuthenticationError: the gateway asks for a token, and for another one than was given.
            UnavailableError: the gateway, or the server behind it, cannot be reached.
            DeadlineError: no answer within timeout_s.
            ServingError: anything else went wrong in the service.
        """
        request = segment_request(
            prompts,
            classes=classes,
            class_search=class_search,
            mask_selection=mask_selection,
            request_id=request_id,
        )
        *named, last = self._sent.ways(request, image)
        for way in named:
            try:
                return result_of(self._call(self._stub.Segment, way), prompts)
            except NotFoundError:
                self._sent.forget(way)
        response: pb.SegmentResponse = self._call(self._stub.Segment, last)
        self._sent.answered(response)
        return result_of(response, prompts)

    def describe(self) -> Description:
        """Ask which model answers, within which limits.

        Raises:
            CpcSamError: as `segment`.
        """
        return description_of(self._call(self._stub.Describe, pb.DescribeRequest()))

    def classes(self) -> tuple[ClassInfo, ...]:
        """Ask which classes the server knows.

        Raises:
            CpcSamError: as `segment`.
        """
        return classes_of(self._call(self._stub.ListClasses, pb.ListClassesRequest()))

    def add_class(
        self, name: str, examples: Sequence[Example], *, tile_size: int = 0
    ) -> tuple[ClassInfo, ...]:
        """Teach a class by annotated images.

        Args:
            name: of the new class.
            examples: a few images with all entities of the class in them.
            tile_size: for the first class: side of the tiles in which images are looked at, in
                pixels; small entities need small tiles. 0 looks at whole images.

        Returns:
            All classes that the server now knows.

        Raises:
            ExistsError: the class is known already.
            ForbiddenError: the token may not change classes.
            PreconditionError: the gateway keeps no classes.
            CpcSamError: as `segment`.
        """
        request = add_class_request(name, examples, tile_size)
        return classes_of(self._call(self._stub.AddClass, request))

    def remove_class(self, name: str) -> tuple[ClassInfo, ...]:
        """Make the server forget a class.

        Returns:
            The classes that are left.

        Raises:
            NotFoundError: there is no such class.
            CpcSamError: as `add_class`.
        """
        return classes_of(self._call(self._stub.RemoveClass, pb.RemoveClassRequest(name=name)))

    def healthy(self) -> bool:
        """Whether the gateway can be reached and says it can answer; asks once."""
        check: Callable[..., bytes] = self._channel.unary_unary(HEALTH_CHECK)
        try:
            return check(b"", timeout=self._timeout_s) == HEALTHY
        except grpc.RpcError:
            return False

    def _call(self, method: Callable[..., Response], request: Any) -> Response:
        """Call until it succeeds, fails for good, or the time is over."""
        attempts = Attempts(self._endpoint.address, self._timeout_s, self._retry)
        while True:
            try:
                return method(
                    request, timeout=attempts.remaining_s, metadata=self._endpoint.metadata
                )
            except grpc.RpcError as error:
                pause_s = attempts.pause_after(error)
            time.sleep(pause_s)
