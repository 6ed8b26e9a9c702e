"""Python client of the gateway.

    from cpcsam.client import Prompt, SegmentationClient

    with SegmentationClient("127.0.0.1:50051") as client:
        result = client.segment("cells.png", [Prompt.click(120, 80)])
        mask = result.masks[0][0].array  # (H, W) bool
        nuclei = client.segment("cells.png", classes=["nucleus"])

`cpcsam.client.async_client` offers the same to asyncio. It needs numpy, Pillow, grpcio, protobuf and
pycocotools, and never torch.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from cpcsam.client import _methods as calls
from cpcsam.client._base import Caller, MessagesOf, closed_error, open_stub
from cpcsam.client._channel import Endpoint
from cpcsam.client.images import ImageId, ImageLike, encode_image
from cpcsam.client.masks import Mask, MaskFormat
from cpcsam.client.prompts import LowResMask, Prompt
from cpcsam.client.requests import ClassSearch, Everything, Example, Question
from cpcsam.client.results import ClassInfo, Description, SegmentResult
from cpcsam.contract import MaskSelection

__all__ = [
    "ClassInfo",
    "ClassSearch",
    "Description",
    "Everything",
    "Example",
    "ImageId",
    "ImageLike",
    "LowResMask",
    "Mask",
    "MaskFormat",
    "MaskSelection",
    "Prompt",
    "Question",
    "SegmentResult",
    "SegmentationClient",
    "encode_image",
]

P = ParamSpec("P")
T = TypeVar("T")


class WaitingConnection:
    """A connection that blocks the thread that calls; threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._metadata = endpoint.metadata
        self._closed = False
        self._channel = endpoint.channel()
        self._stub = open_stub(self._channel)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Ask once."""
        return self._begin(method, request, timeout_s)

    async def stream(
        self,
        method: str,
        messages: MessagesOf,
        questions: Iterable[Question],
        timeout_s: float | None,
    ) -> AsyncGenerator[Any, None]:
        """Ask many times over one stream; the questions are taken in a thread of gRPC's."""
        broken: list[Exception] = []

        def requests() -> Iterator[Any]:
            try:
                yield from filter(None, map(messages, questions))
            except Exception as error:  # gRPC would only say that the iteration failed
                broken.append(error)

        call = self._begin(method, requests(), timeout_s)
        try:
            for answer in call:
                yield answer
        finally:
            call.cancel()
        if broken:
            raise broken[0]

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work here."""
        return work(*args, **kwargs)

    def _begin(self, method: str, request: Any, timeout_s: float | None) -> Any:
        if self._closed:
            raise closed_error()
        call = getattr(self._stub, method)
        return call(request, timeout=timeout_s, metadata=self._metadata)

    def close(self) -> None:
        """Close the connection; calls in work are cancelled."""
        self._closed = True
        self._channel.close()


def _run_through(coroutine: Awaitable[T]) -> T:
    """Run what a WaitingConnection never suspends."""
    try:
        coroutine.__await__().send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    raise RuntimeError("a waiting connection has suspended a call")


def _waiting(
    call: Callable[Concatenate[Caller, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Caller, P], T]:
    """The same call for callers that wait."""

    @functools.wraps(call)
    def waiting(client: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run_through(call(client, *args, **kwargs))

    return waiting


def _streaming(
    call: Callable[Concatenate[Caller, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Caller, P], Iterator[T]]:
    """The same stream for callers that wait."""

    @functools.wraps(call)
    def streaming(client: Caller, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        answers = call(client, *args, **kwargs)
        try:
            while True:
                try:
                    answer = _run_through(anext(answers))
                except StopAsyncIteration:
                    return
                yield answer
        finally:
            _run_through(answers.aclose())

    return streaming


class SegmentationClient(Caller):
    """A connection to one gateway; may be shared by threads.

    Its arguments are those of `cpcsam.client._base.Caller`, and its calls those of `cpcsam.client._methods`.
    """

    _connection: WaitingConnection

    def _connect(self, endpoint: Endpoint) -> WaitingConnection:
        return WaitingConnection(endpoint)

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
        self._connection.close()

    segment = _waiting(calls.segment)
    ask = _waiting(calls.ask)
    segment_stream = _streaming(calls.segment_stream)
    describe = _waiting(calls.describe)
    classes = _waiting(calls.classes)
    add_class = _waiting(calls.add_class)
    remove_class = _waiting(calls.remove_class)
    healthy = _waiting(calls.healthy)
