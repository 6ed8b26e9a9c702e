"""Many requests over one stream: a few in work at once, answered in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

__all__ = ["ordered_map"]

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def ordered_map(
    answer: Callable[[Request], Awaitable[Answer]],
    requests: AsyncIterator[Request],
    window: int,
) -> AsyncGenerator[Answer, None]:
    """Answers of requests, in their order.

    A request is read only while fewer than `window` wait for their answer to be taken: whoever
    reads no answers is not read from. What is in work ends with the iteration.

    Args:
        requests: to be answered.
        answer: answers one; an error of it ends the iteration.
        window: requests that are read ahead of the answers.
    """
    places = asyncio.Semaphore(window)
    working: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[Answer]] = set()

    async def read() -> None:
        try:
            await places.acquire()
            async for request in requests:
                task = asyncio.ensure_future(answer(request))
                tasks.add(task)
                working.put_nowait(task)
                await places.acquire()
        finally:
            working.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await working.get()) is not None:
            result = await task
            tasks.discard(task)
            yield result
            places.release()
        await reading  # raises what ended it
    finally:
        ended = [reading, *tasks]
        for one in ended:
            one.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
