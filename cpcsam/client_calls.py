"""What a client can ask, written once for callers that wait and for asyncio.

Each call is a coroutine that awaits nothing but the caller's `Connection`. That of asyncio suspends
it; that of waiting callers blocks instead, so that the coroutine runs through at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import grpc

from cpcsam.channel import DEFAULT_ADDRESS, Endpoint
from cpcsam.contract import MaskSelection
from cpcsam.image_file import ImageLike
from cpcsam.messages import (
    add_class_request,
    classes_of,
    description_of,
    result_of,
    segment_request,
)
from cpcsam.prompt import Prompt
from cpcsam.questions import ClassSearch, Example
from cpcsam.results import ClassInfo, Description, SegmentResult
from cpcsam.retries import Attempts
from cpcsam.sent_images import SentImages
from cpcsam.status import NotFoundError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

__all__ = [
    "Caller",
    "Connection",
    "add_class",
    "classes",
    "describe",
    "healthy",
    "open_stub",
    "remove_class",
    "segment",
]

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
"""The standard health messages are one enum; spelled here, they need no further package."""
HEALTHY: Final = b"\x08\x01"
"""HealthCheckResponse with status SERVING, serialised."""

P = ParamSpec("P")
T = TypeVar("T")


class Connection(Protocol):
    """How calls reach the gateway, and how they wait."""

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Ask once.

        Raises:
            grpc.RpcError: no answer.
        """

    async def pause(self, seconds: float) -> None:
        """Wait."""

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work that takes the processor or a disk some time."""


def open_stub(channel: Any) -> Any:
    """The service's methods by name, and `CheckHealth`, over a channel of either kind."""
    stub: Any = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
    stub.CheckHealth = channel.unary_unary(HEALTH_CHECK)
    return stub


class Caller:
    """What all clients of a gateway have.

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
        self._connection = self._connect(self._endpoint)

    def _connect(self, endpoint: Endpoint) -> Connection:
        raise NotImplementedError

    async def _ask(self, method: str, request: Any) -> Any:
        """Call until it succeeds, fails for good, or the time is over.

        Raises:
            CpcSamError: as `segment`.
        """
        attempts = Attempts(self._endpoint.address, self._timeout_s, self._retry)
        while True:
            try:
                return await self._connection.call(method, request, attempts.remaining_s)
            except grpc.RpcError as error:
                pause_s = attempts.pause_after(error)
            await self._connection.pause(pause_s)


async def segment(
    client: Caller,
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
        client: that asks.
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
    *named, last = await client._connection.aside(client._sent.ways, request, image)
    for way in named:
        try:
            return result_of(await client._ask("Segment", way), prompts)
        except NotFoundError:
            client._sent.forget(way)
    response: pb.SegmentResponse = await client._ask("Segment", last)
    client._sent.answered(response)
    return result_of(response, prompts)


async def describe(client: Caller) -> Description:
    """Ask which model answers, within which limits.

    Raises:
        CpcSamError: as `segment`.
    """
    return description_of(await client._ask("Describe", pb.DescribeRequest()))


async def classes(client: Caller) -> tuple[ClassInfo, ...]:
    """Ask which classes the server knows.

    Raises:
        CpcSamError: as `segment`.
    """
    return classes_of(await client._ask("ListClasses", pb.ListClassesRequest()))


async def add_class(
    client: Caller, name: str, examples: Sequence[Example], *, tile_size: int = 0
) -> tuple[ClassInfo, ...]:
    """Teach a class by annotated images.

    Args:
        client: that asks.
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
    request = await client._connection.aside(add_class_request, name, examples, tile_size)
    return classes_of(await client._ask("AddClass", request))


async def remove_class(client: Caller, name: str) -> tuple[ClassInfo, ...]:
    """Make the server forget a class.

    Returns:
        The classes that are left.

    Raises:
        NotFoundError: there is no such class.
        CpcSamError: as `add_class`.
    """
    return classes_of(await client._ask("RemoveClass", pb.RemoveClassRequest(name=name)))


async def healthy(client: Caller) -> bool:
    """Whether the gateway can be reached and says it can answer; asks once."""
    try:
        answer = await client._connection.call("CheckHealth", b"", client._timeout_s)
    except grpc.RpcError:
        return False
    return bool(answer == HEALTHY)
