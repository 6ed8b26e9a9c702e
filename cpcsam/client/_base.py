"""Transport interface and state shared by the blocking and the asyncio client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import grpc

from cpcsam.client._channel import Endpoint
from cpcsam.client._image_cache import ImageIdCache
from cpcsam.client._retry import Attempts, checked_timeout
from cpcsam.client.requests import SegmentRequest
from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

__all__ = ["HEALTHY", "BaseClient", "Connection", "RequestEncoder", "closed_error", "open_stub"]

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
"""The standard health messages hold a single enum; spelled out here, they need no other package."""
HEALTHY: Final = b"\x08\x01"
"""HealthCheckResponse with status SERVING, serialised."""

P = ParamSpec("P")
T = TypeVar("T")
RequestEncoder = Callable[[SegmentRequest], pb.SegmentRequest]


class Connection(Protocol):
    """Transport of a client: sends RPCs and waits, by blocking or by suspending."""

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Send a unary RPC once, without retries.

        Raises:
            grpc.RpcError: the RPC failed.
        """

    def stream(
        self, method: str, encode: RequestEncoder, requests: Any, timeout_s: float | None
    ) -> AsyncGenerator[Any, None]:
        """Send encoded requests over a bidirectional stream and yield the responses.

        Raises:
            grpc.RpcError: the stream broke.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run CPU-bound or disk-bound work without blocking other tasks."""


def open_stub(channel: Any) -> Any:
    """Create the service stub, with `CheckHealth` added, on a blocking or asyncio channel."""
    stub: Any = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
    stub.CheckHealth = channel.unary_unary(HEALTH_CHECK)
    return stub


def closed_error() -> ServingError:
    """Return the error of a call on a closed client."""
    return ServingError.of(
        "client", got="a closed client", expected="an open client", fix="make a new one"
    )


class BaseClient:
    """State of a client: endpoint, time limit, retry policy and the cache of known image ids.

    Args:
        endpoint: the gateway.
        connection: transport to it.
        timeout_s: time limit of a call in seconds, retries included.
        retry: whether failed calls are retried.

    Raises:
        ConfigError: no such time limit.
    """

    def __init__(
        self, endpoint: Endpoint, connection: Connection, timeout_s: float, retry: bool
    ) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._timeout_s = checked_timeout(timeout_s)
        self._retry = retry
        self._known_images = ImageIdCache()

    def _attempts(self, *, repeatable: bool = True) -> Attempts:
        """Begin the time of a call; see `Attempts`."""
        return Attempts(self._endpoint.address, self._timeout_s, self._retry, repeatable=repeatable)

    async def _call(self, method: str, request: Any, attempts: Attempts | None = None) -> Any:
        """Send a unary RPC with exponential backoff, within the time limit.

        Args:
            method: its name.
            request: its message.
            attempts: of the whole call, where this RPC is a part of it.

        Raises:
            CpcSamError: a permanent failure, or the time limit is exceeded.
        """
        attempts = attempts or self._attempts()
        while True:
            try:
                return await self._connection.call(method, request, attempts.remaining_s)
            except grpc.RpcError as error:
                backoff_s = attempts.backoff_after(error)
            await self._connection.sleep(backoff_s)
