"""Concurrent map over an asynchronous stream, with results in order and backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

__all__ = ["ordered_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")


async def ordered_map(
    function: Callable[[Item], Awaitable[Result]],
    items: AsyncIterator[Item],
    window: int,
) -> AsyncGenerator[Result, None]:
    """Apply a coroutine function to the items of a stream and yield the results in order.

    Backpressure: an item is read only while fewer than `window` results are pending, so that a
    consumer that stops reading stops the producer. The end of the iteration cancels pending calls.

    Args:
        function: computes the result of an item; an error of it ends the iteration.
        items: the stream.
        window: most items read ahead of the results taken.
    """
    semaphore = asyncio.Semaphore(window)
    pending: asyncio.Queue[asyncio.Task[Result] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[Result]] = set()

    async def read() -> None:
        try:
            # Before the first item: iteration itself reads, and would run an item ahead.
            await semaphore.acquire()
            async for item in items:
                task = asyncio.ensure_future(function(item))
                tasks.add(task)
                pending.put_nowait(task)
                await semaphore.acquire()
        finally:
            pending.put_nowait(None)  # end of stream, for the consumer below

    reader = asyncio.create_task(read())
    try:
        while (task := await pending.get()) is not None:
            result = await task
            tasks.discard(task)
            yield result
            semaphore.release()
        await reader  # raises the error of the stream, if any
    finally:
        unfinished = [reader, *tasks]
        for running in unfinished:
            running.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
