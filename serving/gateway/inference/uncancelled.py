"""Calls that run to completion although their caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["UncancelledCalls"]

T = TypeVar("T")


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
