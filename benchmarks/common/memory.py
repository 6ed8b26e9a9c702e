"""Peak resident memory of a process."""

from __future__ import annotations

from pathlib import Path

__all__ = ["rss_peak_bytes"]


def rss_peak_bytes() -> int:
    """Peak resident memory of this program, bytes, on Linux.

    `ru_maxrss` would also count the parent's, from the moment between its fork and this program.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024
