"""Parts of one request side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from cpcsam.contract import ENCODER_MAX_BATCH

__all__ = ["CONCURRENT_PARTS", "gather_limited"]

CONCURRENT_PARTS: Final = ENCODER_MAX_BATCH
"""As many as one encoder batch holds. More would only stand in the queue before other requests."""

T = TypeVar("T")


async def gather_limited(
    parts: Sequence[Callable[[], Awaitable[T]]], at_once: int = CONCURRENT_PARTS
) -> list[T]:
    """Results in order, a few parts at once; the first failure cancels the others.

    Args:
        parts: what to do.
        at_once: how many of them at a time.
    """
    places = asyncio.Semaphore(at_once)

    async def run(part: Callable[[], Awaitable[T]]) -> T:
        async with places:
            return await part()

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(run(part)) for part in parts]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]
