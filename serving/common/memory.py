"""Memory of a server that handles large messages for weeks."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["returning_freed_memory", "shorten_garbage_collection"]

GC_THRESHOLDS: Final = (700, 10, 2)
"""Thresholds of the garbage collector: the last generation is collected five times as often as by
default."""
TRIM_PERIOD_S: Final = 10.0


@asynccontextmanager
async def returning_freed_memory(period_s: float = TRIM_PERIOD_S) -> AsyncIterator[None]:
    """Return freed memory to the system at intervals while the block runs.

    glibc keeps whole free pages between used ones, and more of them after each mix of sizes; with
    another C library nothing is done. A return takes about a millisecond.

    Args:
        period_s: seconds between two returns.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    task = asyncio.create_task(_trim(trim, period_s)) if trim else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


async def _trim(trim: Callable[[int], int], period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        trim(0)


def shorten_garbage_collection() -> None:
    """Keep full garbage collections from halting all requests for a tenth of a second.

    By default a full collection visits every loaded object and the garbage of ten seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
