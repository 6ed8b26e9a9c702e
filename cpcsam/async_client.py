"""Python client of the gateway for asyncio.

    from cpcsam.async_client import AsyncSegmentationClient, Prompt

    async with AsyncSegmentationClient("127.0.0.1:50051") as client:
        click = Prompt.click(120, 80)
        results = await asyncio.gather(*(client.segment(file, [click]) for file in files))

It offers what `cpcsam.client` offers. Cancelling a task, or the end of an `asyncio.timeout`,
cancels the call in the gateway as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import grpc.aio

from cpcsam import client_calls as calls
from cpcsam.channel import Endpoint
from cpcsam.client_calls import Caller, open_stub
from cpcsam.contract import MaskSelection
from cpcsam.image_file import ImageLike, encode_image
from cpcsam.prompt import Prompt
from cpcsam.questions import ClassSearch, Example
from cpcsam.results import ClassInfo, Description, ImageId, Mask, SegmentResult

__all__ = [
    "AsyncSegmentationClient",
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
    "encode_image",
]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncConnection:
    """A connection that suspends the task that calls; it opens in the loop of its first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        endpoint.credentials()  # a wrong file is told at once
        self._endpoint = endpoint
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Ask once."""
        if self._channel is None:
            self._channel = self._endpoint.async_channel()
            self._stub = open_stub(self._channel)
        metadata = self._endpoint.metadata
        return await getattr(self._stub, method)(request, timeout=timeout_s, metadata=metadata)

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(work, *args, **kwargs)

    async def close(self) -> None:
        """Close the connection; calls in work are cancelled."""
        if self._channel is not None:
            await self._channel.close()


class AsyncSegmentationClient(Caller):
    """A connection to one gateway, for the tasks of one event loop.

    Its arguments are those of `Caller`, and its calls those of `cpcsam.client_calls`.
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
    describe = calls.describe
    classes = calls.classes
    add_class = calls.add_class
    remove_class = calls.remove_class
    healthy = calls.healthy
