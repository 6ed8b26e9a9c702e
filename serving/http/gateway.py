"""Calls of the HTTP front to the gateway, over one gRPC channel."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Final

import grpc.aio
from google.protobuf.message import Message

from cpcsam import tracing
from cpcsam.client._base import HEALTHY, open_stub
from cpcsam.client._channel import Endpoint
from serving.common.request_ids import ID_KEY
from serving.http.caller import Caller
from serving.http.metrics import HttpMetrics

__all__ = ["Gateway"]

CHANNEL_OPTIONS: Final = (
    # A gateway that was restarted is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),  # of $http_proxy, which counts for loopback as well
)


class Gateway:
    """The gateway behind the front: one channel for all, the caller's token by call.

    To be made inside the event loop that uses it.

    Args:
        endpoint: of the gateway; its token is not used.
        metrics: observes the times of calls; None observes nothing.

    Raises:
        ConfigError: the certificates cannot be read.
    """

    def __init__(self, endpoint: Endpoint, metrics: HttpMetrics | None = None) -> None:
        credentials = endpoint.credentials()
        options = (*endpoint.options, *CHANNEL_OPTIONS)
        self._channel = (
            grpc.aio.insecure_channel(endpoint.address, options=options)
            if credentials is None
            else grpc.aio.secure_channel(endpoint.address, credentials, options=options)
        )
        self._address = endpoint.address
        self._stub: Any = open_stub(self._channel)
        self._metrics = metrics

    async def call(self, method: str, request: Message, caller: Caller) -> Any:
        """Send a unary call once; cancelling the task cancels the call.

        Args:
            method: of the service, such as `Segment`.
            request: its message.
            caller: whose token and time limit it has.

        Returns:
            The method's response message.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        metadata = [] if caller.token is None else [("authorization", f"Bearer {caller.token}")]
        if caller.request_id:
            metadata.append((ID_KEY, caller.request_id))
        started = perf_counter()
        try:
            with tracing.call_span(method, self._address) as span:
                metadata += span.headers
                return await getattr(self._stub, method)(
                    request, timeout=caller.timeout_s, metadata=metadata
                )
        finally:
            if self._metrics is not None:
                self._metrics.phase_seconds.labels("gateway").observe(perf_counter() - started)

    async def is_healthy(self, timeout_s: float) -> bool:
        """Return whether the gateway's health service answers SERVING.

        Raises:
            grpc.aio.AioRpcError: it does not answer.
        """
        return bool(await self._stub.CheckHealth(b"", timeout=timeout_s) == HEALTHY)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
