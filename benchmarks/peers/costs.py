"""CPU time and memory of all processes that serve, read from /proc."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.serving.ports import processes_below

__all__ = ["on_cores", "pss_bytes", "pss_peak", "split_cores"]

PERIOD_S: Final = 0.25
SERVING_CORES: Final = 2


def pss_bytes(processes: Collection[int]) -> int:
    """Sum of the proportional set sizes: a page that N processes share counts 1/N for each."""
    total = 0
    for process in processes:
        # A process may end while it is read.
        with suppress(OSError):
            total += _pss(Path(f"/proc/{process}/smaps_rollup").read_text())
    return total


def _pss(rollup: str) -> int:
    line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024


@contextmanager
def pss_peak(pid: int) -> Iterator[Callable[[], int]]:
    """Sample the memory of a process and its descendants while the block runs.

    Yields:
        A function that returns the peak so far, bytes.
    """
    peak, over = pss_bytes(processes_below(pid)), threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(PERIOD_S):
            peak = max(peak, pss_bytes(processes_below(pid)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield lambda: peak
    finally:
        over.set()
        sampler.join()


def split_cores(available: Sequence[int]) -> tuple[set[int], set[int]]:
    """Return the cores of every system and those of the load generator.

    The systems get two; the generator gets the others, or the same where there are no others.
    """
    serving = set(available[:SERVING_CORES])
    return serving, set(available[SERVING_CORES:]) or serving


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Restrict this thread, and the processes that it starts in the block, to some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
