"""Python client of the gateway for asyncio.

    from cpcsam.client.async_client import AsyncSegmentationClient
    from cpcsam.client import Prompt

    async with AsyncSegmentationClient("127.0.0.1:50051") as client:
        click = Prompt.click(120, 80)
        results = await asyncio.gather(*(client.segment(file, [click]) for file in files))

It offers what `cpcsam.client` offers. Cancelling a task, or the end of an `asyncio.timeout`,
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
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import grpc.aio

from cpcsam.client import _methods as calls
from cpcsam.client._base import Caller, MessagesOf, closed_error, open_stub
from cpcsam.client._channel import Endpoint
from cpcsam.client.requests import Question

__all__ = ["AsyncSegmentationClient"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncConnection:
    """A connection that suspends the task that calls; it opens in the loop of its first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        endpoint.credentials()  # a wrong file is told at once
        self._endpoint = endpoint
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Ask once."""
        with self._told_if_closed():
            return await self._begin(method, request, timeout_s)

    async def stream(
        self,
        method: str,
        messages: MessagesOf,
        questions: Iterable[Question] | AsyncIterable[Question],
        timeout_s: float | None,
    ) -> AsyncGenerator[Any, None]:
        """Ask many times over one stream; the questions are taken in a task of gRPC's."""
        broken: list[Exception] = []

        async def requests() -> AsyncIterator[Any]:
            try:
                async for question in _asynchronous(questions):
                    if (request := await self.aside(messages, question)) is not None:
                        yield request
            except Exception as error:  # gRPC would only cancel the call
                broken.append(error)

        with self._told_if_closed():
            call = self._begin(method, requests(), timeout_s)
            try:
                async for answer in call:
                    yield answer
            finally:
                call.cancel()
        if broken:
            raise broken[0]

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(work, *args, **kwargs)

    def _begin(self, method: str, request: Any, timeout_s: float | None) -> Any:
        if self._channel is None:
            self._channel = self._endpoint.async_channel()
            self._stub = open_stub(self._channel)
        call = getattr(self._stub, method)
        return call(request, timeout=timeout_s, metadata=self._endpoint.metadata)

    @contextmanager
    def _told_if_closed(self) -> Iterator[None]:
        """Where gRPC would cancel the task, as if somebody had, say what happened."""
        if self._closed:
            raise closed_error()
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise closed_error() from None
            raise

    async def close(self) -> None:
        """Close the connection; calls in work are cancelled."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()


async def _asynchronous(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class AsyncSegmentationClient(Caller):
    """A connection to one gateway, for the tasks of one event loop.

    Its arguments are those of `cpcsam.client._base.Caller`, and its calls those of `cpcsam.client._methods`.
    """

    _connection: AsyncConnection

    def _connect(self, endpoint: Endpoint) -> AsyncConnection:
        return AsyncConnection(endpoint)

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
        """Close the connection; calls in work are cancelled."""
        await self._connection.close()

    segment = calls.segment
    ask = calls.ask
    segment_stream = calls.segment_stream
    describe = calls.describe
    classes = calls.classes
    add_class = calls.add_class
    remove_class = calls.remove_class
    healthy = calls.healthy
