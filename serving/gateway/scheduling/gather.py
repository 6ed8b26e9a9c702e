"""Bounded concurrency for the parts of one request."""

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
