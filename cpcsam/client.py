"""Python client of the gateway.

    from cpcsam.client import Prompt, SegmentationClient

    with SegmentationClient("127.0.0.1:50051") as client:
        result = client.segment("cells.png", [Prompt.click(120, 80)])
        mask = result.masks[0][0].array  # (H, W) bool

It needs numpy, Pillow, grpcio, protobuf and pycocotools, and never torch.
"""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.channel import DEFAULT_ADDRESS, Endpoint
from cpcsam.contract import MaskSelection, PointLabel
from cpcsam.errors import ContractError
from cpcsam.prompt import Prompt
from cpcsam.results import Description, ImageId, Mask, SegmentResult
from cpcsam.status import NotFoundError, error_of_status
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

__all__ = [
    "Description",
    "ImageId",
    "ImageLike",
    "Mask",
    "MaskSelection",
    "Prompt",
    "SegmentResult",
    "SegmentationClient",
    "encode_image",
]

ImageLike = NDArray[np.uint8] | Image.Image | bytes | ImageId | str | Path
"""An (H, W, 3) uint8 RGB array, a Pillow image, an encoded file's bytes, the path of a file, or the
`image_id` of an earlier answer."""

Response = TypeVar("Response")

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
REMEMBERED_IMAGES: Final = 4096
MODES_OF_PNG: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


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
        self._sent: OrderedDict[str, None] = OrderedDict()
        self._channel = self._endpoint.channel()
        stub = pb_grpc.SegmentationStub(self._channel)  # type: ignore[no-untyped-call]
        self._segment: Callable[..., pb.SegmentResponse] = stub.Segment
        self._describe: Callable[..., pb.DescribeResponse] = stub.Describe

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
        prompts: Sequence[Prompt],
        *,
        mask_selection: MaskSelection = MaskSelection.SINGLE,
        request_id: str = "",
    ) -> SegmentResult:
        """Segment what the prompts point at.

        Args:
            image: an array and a Pillow image are sent as PNG, bytes and files as they are. To ask
                about an array again and again, encode it once with `encode_image`.
            prompts: one for each entity.
            mask_selection: which masks answer a prompt.
            request_id: appears in the answer and in the gateway's log.

        Raises:
            ContractError: the image or a prompt is wrong.
            LimitError: the request is over a limit, or the gateway is full.
            NotFoundError: the server does not know an ImageId any more.
            AuthenticationError: the gateway asks for a token, and for another one than was given.
            UnavailableError: the gateway, or the server behind it, cannot be reached.
            DeadlineError: no answer within timeout_s.
            ServingError: anything else went wrong in the service.
        """
        request = pb.SegmentRequest(
            request_id=request_id,
            prompts=[_prompt_message(prompt) for prompt in prompts],
            mask_selection=pb.MaskSelection.Name(mask_selection.value),
        )
        response = self._call_with_image(request, image)
        return SegmentResult(
            request_id=response.request_id,
            original_size=(response.original_size.height, response.original_size.width),
            prompts=tuple(prompts),
            masks=tuple(tuple(map(_mask, result.masks)) for result in response.results),
            model_name=response.model_name,
            model_version=response.model_version,
            timings_ms={
                "validate": response.timings.validate_ms,
                "triton": response.timings.triton_ms,
                "total": response.timings.total_ms,
            },
            image_id=ImageId(response.image_id),
            cached=response.cached,
        )

    def describe(self) -> Description:
        """Ask which model answers, within which limits.

        Raises:
            CpcSamError: as `segment`.
        """
        response = self._call(self._describe, pb.DescribeRequest())
        fields = response.limits.DESCRIPTOR.fields_by_name
        numbers = [name for name in fields if name != "image_formats"]
        return Description(
            model_name=response.model.name,
            model_version=response.model.version,
            model_size=response.model.size,
            image_size=response.model.image_size,
            limits={name: getattr(response.limits, name) for name in numbers},
            image_formats=tuple(response.limits.image_formats),
            gateway_version=response.gateway_version,
            triton_version=response.triton_version,
        )

    def healthy(self) -> bool:
        """Whether the gateway can be reached and says it can answer; asks once."""
        # The standard health messages are one enum; spelled here, they need no further package.
        check: Callable[..., bytes] = self._channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return check(b"", timeout=self._timeout_s) == HEALTHY
        except grpc.RpcError:
            return False

    def _call_with_image(self, request: pb.SegmentRequest, image: ImageLike) -> pb.SegmentResponse:
        """Name the image if the server should know it, else send it."""
        if isinstance(image, ImageId):
            request.image_id = image
            return self._call(self._segment, request)
        image_bytes = encode_image(image)
        image_id = hashlib.sha256(image_bytes).hexdigest()
        if image_id in self._sent:
            request.image_id = image_id
            try:
                return self._call(self._segment, request)
            except NotFoundError:
                self._sent.pop(image_id, None)
        request.image_bytes = image_bytes
        response = self._call(self._segment, request)
        self._sent[response.image_id] = None
        if len(self._sent) > REMEMBERED_IMAGES:
            self._sent.popitem(last=False)
        return response

    def _call(self, method: Callable[..., Response], request: Any) -> Response:
        """Call until it succeeds, fails for good, or the time is over."""
        deadline = time.monotonic() + self._timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                timeout_s = max(deadline - time.monotonic(), 1e-3)
                return method(request, timeout=timeout_s, metadata=self._endpoint.metadata)
            except grpc.RpcError as error:
                status, message = error.code(), error.details() or ""
                retry_s = _pushback_s(error)
                wait_s = pause_s * random.uniform(0.5, 1.0) + (retry_s or 0)
                again = status is grpc.StatusCode.UNAVAILABLE or retry_s is not None
                if not (again and self._retry) or time.monotonic() + wait_s >= deadline:
                    told = self._told(status, message)
                    raise error_of_status(status, told, retry_s) from error
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _told(self, status: grpc.StatusCode, message: str) -> str:
        """The gateway's own words; where gRPC itself gave up, words of the same form."""
        if ": got " in message:
            return message
        expected, fix = {
            grpc.StatusCode.UNAVAILABLE: (
                "a gateway that answers",
                "start it or correct HOST:PORT",
            ),
            grpc.StatusCode.DEADLINE_EXCEEDED: (
                f"an answer within {self._timeout_s:g} s",
                "allow more time",
            ),
        }.get(status, ("an answer", "see the gateway's log"))
        reason = message.rpartition(": ")[2] or status.name
        return f"{self._endpoint.address}: got {reason}, expected {expected}; {fix}"


def _pushback_s(error: Any) -> float | None:
    """After how many seconds the gateway wants to be asked again, if it said so."""
    for name, value in error.trailing_metadata() or ():
        if name == PUSHBACK_KEY and str(value).isdigit():
            return int(value) / 1e3
    return None


HEALTHY: Final = b"\x08\x01"
"""HealthCheckResponse with status SERVING, serialised."""


def encode_image(image: ImageLike) -> bytes:
    """Bytes of an image file: what is not one yet becomes a PNG.

    Raises:
        ContractError: an array of another shape or dtype, a file that cannot be read, or no image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, ImageId):
        raise ContractError.of("image", got="an ImageId", expected="an image", fix="give its file")
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ContractError.of(
                str(image), got=error.strerror, expected="an image file", fix="correct the path"
            ) from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ContractError.of(
                "image",
                got=f"shape {image.shape} of {image.dtype}",
                expected="(H, W, 3) of uint8, RGB",
                fix="convert the array, or send the file's bytes",
            )
        image = Image.fromarray(image)
    elif image.mode not in MODES_OF_PNG:
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _prompt_message(prompt: Prompt) -> pb.Prompt:
    points = [
        pb.Point(x=x, y=y, background=label == PointLabel.BACKGROUND)
        for (x, y), label in zip(prompt.point_coords, prompt.point_labels, strict=True)
    ]
    if prompt.box is None:
        return pb.Prompt(points=points)
    x0, y0, x1, y1 = prompt.box
    return pb.Prompt(points=points, box=pb.Box(x0=x0, y0=y0, x1=x1, y1=y1))


def _mask(message: pb.Mask) -> Mask:
    rle, box = message.coco_rle, message.box
    return Mask(
        size=(rle.size.height, rle.size.width),
        counts=rle.counts,
        score=message.score,
        box=(box.x0, box.y0, box.x1, box.y1),
        area=message.area,
    )
