"""Memory of a server that handles large messages for weeks."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from typing import Final

__all__ = ["reuse_freed_memory", "shorten_garbage_collection"]

GC_THRESHOLDS: Final = (700, 10, 2)
"""Thresholds of the garbage collector: the last generation is collected five times as often as by
default."""
PERIOD_S: Final = 10.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
LARGEST: Final = 32 << 20
"""Largest block that is not mapped by itself, in bytes; glibc takes no more."""
KEPT: Final = 128 << 20
"""Bytes at the end of the heap that are kept until the next return."""


def reuse_freed_memory(period_s: float = PERIOD_S) -> None:
    """Let this process use freed memory again; a thread returns the rest to the system.

    Fresh memory costs a page fault for every 4 KiB, three quarters of the time in which a large
    message or image is copied, and Python halts all threads for it. A return takes about a
    millisecond. With another C library than glibc, nothing is done.

    Args:
        period_s: seconds between two returns.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT)

    def return_memory() -> None:
        while True:
            time.sleep(period_s)
            libc.malloc_trim(0)

    threading.Thread(target=return_memory, name="memory", daemon=True).start()


def shorten_garbage_collection() -> None:
    """Keep full garbage collections from halting all requests for a tenth of a second.

    By default a full collection visits every loaded object and the garbage of ten seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
