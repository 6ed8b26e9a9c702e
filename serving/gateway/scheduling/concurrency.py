"""Concurrency helpers: bounded gather, ordered map with backpressure, uncancelled calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from cpcsam.contract import ENCODER_MAX_BATCH

__all__ = ["CONCURRENT_PARTS", "UncancelledCalls", "gather_limited", "ordered_map"]

CONCURRENT_PARTS: Final = ENCODER_MAX_BATCH
"""As many as one encoder batch holds. More would only stand in the queue before other requests."""

Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")


async def gather_limited(
    parts: Sequence[Callable[[], Awaitable[T]]], limit: int = CONCURRENT_PARTS
) -> list[T]:
    """Run coroutines with bounded concurrency and return their results in order.

    The first failure cancels the others and is raised.

    Args:
        parts: factories of the coroutines.
        limit: most parts that run at once.
    """
    semaphore = asyncio.Semaphore(limit)

    async def run(part: Callable[[], Awaitable[T]]) -> T:
        async with semaphore:
            return await part()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(part)) for part in parts]
    except ExceptionGroup as failures:
        # Callers handle single errors, not groups; the first failure is the cause.
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


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


class UncancelledCalls:
    """Runs calls shielded from cancellation; to be used inside one event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[Any]] = set()

    @property
    def abandoned(self) -> int:
        """Number of running calls whose caller was cancelled."""
        return len(self._abandoned)

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call; cancellation of the caller does not cancel it."""
        task = asyncio.create_task(call)
        self._running.add(task)  # the event loop itself holds only weak references
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._abandoned.add(task)
            raise

    async def finish(self, timeout_s: float) -> None:
        """Wait until all calls have ended, for at most `timeout_s`."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio logs that it was never retrieved
