"""Peak resident memory of a process, or of a part of its work."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

__all__ = ["reset_rss_peak", "rss_peak_bytes"]


def rss_peak_bytes() -> int:
    """Peak resident memory of this program, bytes, on Linux.

    `ru_maxrss` would also count the parent's, from the moment between its fork and this program.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def reset_rss_peak() -> None:
    """Start `rss_peak_bytes` anew, after giving free memory back to the system.

    Where the kernel does not allow it, the peak stays that of all work so far.
    """
    gc.collect()
    # glibc keeps what was freed, and the next work's peak would count it.
    ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
