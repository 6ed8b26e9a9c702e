"""What all clients of a gateway have, however they wait."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import grpc

from cpcsam.client._channel import DEFAULT_ADDRESS, Endpoint
from cpcsam.client._image_cache import SentImages
from cpcsam.client._retry import Attempts
from cpcsam.client.requests import Question
from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

__all__ = ["HEALTHY", "Caller", "Connection", "MessagesOf", "closed_error", "open_stub"]

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
"""The standard health messages are one enum; spelled here, they need no further package."""
HEALTHY: Final = b"\x08\x01"
"""HealthCheckResponse with status SERVING, serialised."""

P = ParamSpec("P")
T = TypeVar("T")
MessagesOf = Callable[[Question], pb.SegmentRequest | None]


class Connection(Protocol):
    """How calls reach the gateway, and how they wait."""

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Ask once.

        Raises:
            grpc.RpcError: no answer.
        """

    def stream(
        self, method: str, messages: MessagesOf, questions: Any, timeout_s: float | None
    ) -> AsyncGenerator[Any, None]:
        """Send the messages of questions and yield the answers.

        Raises:
            grpc.RpcError: the stream broke.
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


def closed_error() -> ServingError:
    """What a call on a closed client tells."""
    return ServingError.of("client", got="a closed one", expected="an open one", fix="make another")


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

    async def _call(self, method: str, request: Any) -> Any:
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
