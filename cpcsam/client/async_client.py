"""Python client of the gateway for asyncio.

    from cpcsam.client import AsyncSegmentationClient, Prompt

    async with AsyncSegmentationClient("127.0.0.1:50051") as client:
        click = Prompt.click(120, 80)
        results = await asyncio.gather(*(client.segment(file, [click]) for file in files))

It has the calls of the blocking client. Cancelling a task, or the end of an `asyncio.timeout`,
cancels the call in the gateway as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc.aio

from cpcsam import tracing
from cpcsam.client._base import RequestEncoder, closed_error, open_stub
from cpcsam.client._channel import DEFAULT_ADDRESS, Endpoint
from cpcsam.client._first_status import FirstStatus
from cpcsam.client._methods import ClientMethods
from cpcsam.client.requests import SegmentRequest

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AsyncSegmentationClient"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncConnection:
    """Transport that suspends the calling task; it binds to the event loop of its first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        endpoint.credentials()  # fail early: the channel itself is only made in the event loop
        self._endpoint = endpoint
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Send a unary RPC once, without retries."""
        with self._closed_as_error(), tracing.call_span(method, self._endpoint.address) as span:
            return await self._start(method, request, timeout_s, span)

    async def stream(
        self,
        method: str,
        encode: RequestEncoder,
        requests: Iterable[SegmentRequest] | AsyncIterable[SegmentRequest],
        timeout_s: float | None,
    ) -> AsyncGenerator[Any, None]:
        """Send requests over a stream and yield the responses.

        A task of gRPC iterates over the requests.
        """
        errors: list[Exception] = []

        async def messages() -> AsyncIterator[Any]:
            try:
                async for request in _aiter(requests):
                    yield await self.offload(encode, request)
            except Exception as error:  # gRPC would only cancel the call
                errors.append(error)

        span = tracing.call_span(method, self._endpoint.address, is_current=False)
        with self._closed_as_error(), span:
            call = self._start(method, messages(), timeout_s, span)
            status = FirstStatus(call)
            try:
                async for answer in call:
                    yield answer
            except grpc.aio.AioRpcError as error:
                raise status.instead_of(error) from None
            finally:
                call.cancel()
        if errors:
            raise errors[0]

    async def sleep(self, seconds: float) -> None:
        """Suspend the task for a number of seconds."""
        await asyncio.sleep(seconds)

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work in a thread, so that the event loop stays responsive."""
        return await asyncio.to_thread(work, *args, **kwargs)

    def _start(self, method: str, request: Any, timeout_s: float | None, span: tracing.Span) -> Any:
        if self._channel is None:
            self._channel = self._endpoint.async_channel()
            self._stub = open_stub(self._channel)
        call = getattr(self._stub, method)
        metadata = (*self._endpoint.metadata, *span.headers)
        return call(request, timeout=timeout_s, metadata=metadata)

    @contextmanager
    def _closed_as_error(self) -> Iterator[None]:
        """Raise an error where gRPC, after `close`, would cancel a task that nobody cancelled."""
        if self._closed:
            raise closed_error()
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not _cancel_requested(task):
                raise closed_error() from None
            raise

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()


def _cancel_requested(task: asyncio.Task[Any]) -> bool:
    # Task.cancelling is new in Python 3.11; before, a cancelled task of a closed client ends with
    # the client's error, which is true as well.
    cancelling: Callable[[], int] | None = getattr(task, "cancelling", None)
    return bool(cancelling and cancelling())


async def _aiter(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class AsyncSegmentationClient(ClientMethods):
    """Connection to a gateway for the tasks of a single event loop.

    Calls are retried with exponential backoff, within their time limit, while the gateway is
    unreachable or full. An image is sent once: later requests for it carry its id only, and its
    bytes are sent again if the server has evicted it.

    Args:
        address: HOST:PORT of the gateway.
        timeout_s: time limit of a call in seconds, retries included.
        retry: whether failed calls are retried.
        token: bearer token, if the gateway requires authentication.
        tls: whether the gateway speaks TLS.
        ca: PEM file of trusted certificates; None trusts those of the system. Implies tls.
        tls_name: in the gateway's certificate, implies TLS; None is the host of the address.

    Raises:
        ConfigError: the token, the certificate file or the time limit is invalid.
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
        tls_name: str | None = None,
    ) -> None:
        endpoint = Endpoint(address, token, tls, ca, tls_name)
        connection = AsyncConnection(endpoint)
        super().__init__(endpoint, connection, timeout_s, retry)
        self._close = connection.close

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        await self._close()
