"""Thread pools of the gateway, one for each kind of blocking work, shared evenly by clients."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import partial
from threading import Event
from typing import Final, ParamSpec, TypeVar

from cpcsam import tracing
from serving.gateway.scheduling.fair_queue import FairSemaphore

__all__ = ["AbandonedError", "Executors", "FairExecutor", "open_executors", "stop_if_abandoned"]

FEW: Final = 2
"""Threads for work that takes memory or waits for other processes."""
MANY: Final = max(FEW, min(4, os.cpu_count() or 1))
"""Threads for computations."""

LARGE_PIXELS: Final = 4096 * 4096
"""Pixels of an image beyond which decoding it takes up to a GiB, with as many values of 64 bits."""

ABANDONED: Final[ContextVar[Event]] = ContextVar("abandoned")
"""Set when nobody waits for the function that runs in this thread."""

P = ParamSpec("P")
T = TypeVar("T")


class AbandonedError(Exception):
    """Nobody waits for the result any more."""


def stop_if_abandoned() -> None:
    """End a function of a `FairExecutor` for which nobody waits; to be called in long loops.

    Raises:
        AbandonedError: its caller was cancelled.
    """
    abandoned = ABANDONED.get(None)
    if abandoned is not None and abandoned.is_set():
        raise AbandonedError


class FairExecutor:
    """Thread pool in which a free thread goes to the client that occupies the fewest.

    To be used inside one event loop.

    Args:
        name: of its threads, and of the spans of traces.
        threads: how many there are.
        each: most that one client occupies; None is all.
    """

    def __init__(self, name: str, threads: int, each: int | None = None) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, name)
        self._turns = FairSemaphore(threads, each=each)

    async def run(
        self, client: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a blocking function in a thread, once it is the client's turn.

        A caller that is cancelled leaves the queue; a function that was begun keeps its thread
        until its end or the next `stop_if_abandoned`.

        Args:
            client: key of fairness.
            function: what to call.
            args: its arguments.
            kwargs: its arguments by name.
        """
        with tracing.span(self._name):
            return await self._run(client, partial(function, *args, **kwargs))

    async def _run(self, client: str, function: Callable[[], T]) -> T:
        await self._turns.acquire(client)
        loop = asyncio.get_running_loop()
        abandoned = Event()
        call = partial(_call, abandoned, function)
        running = loop.run_in_executor(self._pool, call)

        def release(_: asyncio.Future[T]) -> None:
            self._turns.release(client)
            if not running.cancelled():
                running.exception()  # else asyncio logs that it was never retrieved

        running.add_done_callback(release)
        try:
            return await asyncio.shield(running)
        finally:
            abandoned.set()

    def close(self) -> None:
        """Begin no further function; do not wait for the running ones."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _call(abandoned: Event, function: Callable[[], T]) -> T:
    ABANDONED.set(abandoned)
    return function()


@dataclass(frozen=True)
class Executors:
    """The pools of one gateway: no kind of work takes the threads of another.

    Attributes:
        headers: headers and digests of plain image files.
        documents: headers of all other image files, each of which a process reads; one client's
            can take seconds, and leave another's a thread.
        pixels: decoding of images and masks, and resizing.
        large: the same for large images, one at a time.
        search: similarity maps, proposals and merging.
        classes: reading of vocabularies.
        changes: building and writing of vocabularies.
        answers: encoding of masks.
    """

    headers: FairExecutor = field(default_factory=lambda: FairExecutor("headers", FEW))
    messages: FairExecutor = field(default_factory=lambda: FairExecutor("messages", FEW))
    documents: FairExecutor = field(default_factory=lambda: FairExecutor("documents", FEW, 1))
    pixels: FairExecutor = field(default_factory=lambda: FairExecutor("pixels", FEW))
    large: FairExecutor = field(default_factory=lambda: FairExecutor("large", 1))
    search: FairExecutor = field(default_factory=lambda: FairExecutor("search", MANY))
    classes: FairExecutor = field(default_factory=lambda: FairExecutor("classes", FEW))
    changes: FairExecutor = field(default_factory=lambda: FairExecutor("changes", FEW))
    answers: FairExecutor = field(default_factory=lambda: FairExecutor("answers", MANY))

    def pixels_of(self, size: tuple[int, int]) -> FairExecutor:
        """Return the pool for the pixels of an image of size (H, W)."""
        return self.large if size[0] * size[1] > LARGE_PIXELS else self.pixels


@contextmanager
def open_executors() -> Iterator[Executors]:
    """Make the pools of a gateway, and close them after the block."""
    executors = Executors()
    try:
        yield executors
    finally:
        for each in fields(executors):
            getattr(executors, each.name).close()
