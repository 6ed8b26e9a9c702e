"""Blocking Python client of the gateway.

    from cpcsam.client import Prompt, SegmentationClient

    with SegmentationClient("127.0.0.1:50051") as client:
        result = client.segment("cells.png", [Prompt.click(120, 80)])
        mask = result.masks[0][0].array  # (H, W) bool
        nuclei = client.segment("cells.png", classes=["nucleus"])

`cpcsam.client.async_client` offers the same calls to asyncio.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from cpcsam import tracing
from cpcsam.client._base import RequestEncoder, closed_error, open_stub
from cpcsam.client._channel import DEFAULT_ADDRESS, Endpoint
from cpcsam.client._methods import ClientMethods
from cpcsam.client.requests import SegmentRequest
from cpcsam.client.results import SegmentResult
from cpcsam.errors import CpcSamError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SegmentationClient"]

P = ParamSpec("P")
T = TypeVar("T")


class BlockingConnection:
    """Transport that blocks the calling thread; safe to share between threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._address = endpoint.address
        self._metadata = endpoint.metadata
        self._closed = False
        self._channel = endpoint.channel()
        self._stub = open_stub(self._channel)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Send a unary RPC once, without retries."""
        with tracing.call_span(method, self._address) as span:
            return self._start(method, request, timeout_s, span)

    async def stream(
        self,
        method: str,
        encode: RequestEncoder,
        requests: Iterable[SegmentRequest],
        timeout_s: float | None,
    ) -> AsyncGenerator[Any, None]:
        """Send requests over a stream and yield the responses.

        A thread of gRPC iterates over the requests.
        """
        errors: list[Exception] = []

        def messages() -> Iterator[Any]:
            try:
                yield from map(encode, requests)
            except Exception as error:  # gRPC would only say that the iteration failed
                errors.append(error)

        with tracing.call_span(method, self._address, is_current=False) as span:
            call = self._start(method, messages(), timeout_s, span)
            try:
                for answer in call:
                    yield answer
            finally:
                # A consumer that stops early must not leave the call running.
                call.cancel()
        if errors:
            raise errors[0]

    async def sleep(self, seconds: float) -> None:
        """Block the thread for a number of seconds."""
        time.sleep(seconds)

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work in the calling thread."""
        return work(*args, **kwargs)

    def _start(self, method: str, request: Any, timeout_s: float | None, span: tracing.Span) -> Any:
        if self._closed:
            raise closed_error()
        call = getattr(self._stub, method)
        return call(request, timeout=timeout_s, metadata=(*self._metadata, *span.headers))

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        self._closed = True
        self._channel.close()


def _run_sync(coroutine: Awaitable[T]) -> T:
    """Drive a coroutine that never suspends to completion, synchronously."""
    try:
        coroutine.__await__().send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a blocking connection suspended a call")


def _iterate_sync(results: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over an asynchronous generator that never suspends, synchronously."""
    try:
        while True:
            try:
                result = _run_sync(anext(results))
            except StopAsyncIteration:
                return
            yield result
    finally:
        _run_sync(results.aclose())


def _blocking(
    method: Callable[Concatenate[ClientMethods, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SegmentationClient, P], T]:
    """Make a blocking method of a coroutine method, with its signature and docstring."""

    @functools.wraps(method)
    def blocking(self: SegmentationClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run_sync(method(self._methods, *args, **kwargs))

    blocking.__module__ = __name__
    blocking.__qualname__ = f"SegmentationClient.{method.__name__}"
    return blocking


class SegmentationClient:
    """Blocking connection to a gateway; safe to share between threads.

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
        self._connection = BlockingConnection(endpoint)
        self._methods = ClientMethods(endpoint, self._connection, timeout_s, retry)

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
        """Close the connection; running calls are cancelled."""
        self._connection.close()

    segment = _blocking(ClientMethods.segment)
    send = _blocking(ClientMethods.send)
    ask = _blocking(ClientMethods.ask)
    describe = _blocking(ClientMethods.describe)
    classes = _blocking(ClientMethods.classes)
    add_class = _blocking(ClientMethods.add_class)
    remove_class = _blocking(ClientMethods.remove_class)
    healthy = _blocking(ClientMethods.healthy)

    def segment_stream(
        self, requests: Iterable[SegmentRequest], *, timeout_s: float | None = None
    ) -> Iterator[SegmentResult | CpcSamError]:
        """Segment many images over one bidirectional stream, in the order of the requests.

        Requests are consumed with backpressure, only as far ahead of the results as the server and
        the connection buffer, so the iterable may be endless; a thread of gRPC iterates over it.
        The server bounds the time of each request. A broken stream is not resumed.

        Args:
            requests: one per image.
            timeout_s: time limit of the whole stream in seconds; None for no limit.

        Yields:
            The result of each request, or its error if that request alone failed.

        Raises:
            ConfigError: no such time limit.
            CpcSamError: as `segment`, if the stream itself fails.
        """
        yield from _iterate_sync(self._methods.segment_stream(requests, timeout_s=timeout_s))
