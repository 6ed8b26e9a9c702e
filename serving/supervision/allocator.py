"""Settings of glibc's allocator for our servers, which read them when they start.

By default each thread has a heap of its own, and blocks are mapped and returned one by one until
the first of their size is freed, and kept from then on. Fresh memory costs a page fault for every
4 KiB, during which Python halts all threads: three quarters of the time that a large message takes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

__all__ = ["KEEPING", "RETURNING", "allocator_environment", "restart_with_allocator"]

VARIABLE: Final = "GLIBC_TUNABLES"
MIB: Final = 1 << 20
Settings = Mapping[str, int]
KEEPING: Final[Settings] = {
    "arena_max": 1,
    "mmap_threshold": 32 * MIB,
    "trim_threshold": 128 * MIB,
}
"""Freed blocks are used again: for servers with `returning_freed_memory`."""
RETURNING: Final[Settings] = {"arena_max": 1, "mmap_threshold": MIB, "hugetlb": 1}
"""Large blocks are returned when they are freed, and take huge pages if the kernel permits it."""


def allocator_environment(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return an environment with settings, unless it has some of its own.

    Args:
        environment: of a process to start.
        settings: `KEEPING` or `RETURNING`.
    """
    text = ":".join(f"glibc.malloc.{name}={value}" for name, value in settings.items())
    return {VARIABLE: text, **environment}


def restart_with_allocator(module: str) -> None:
    """Replace this program by itself with `KEEPING`, unless its environment has settings.

    It keeps its process, arguments and files.

    Args:
        module: that `python -m` runs.
    """
    if VARIABLE not in os.environ:
        words = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, words, allocator_environment(os.environ, KEEPING))
