"""Settings of glibc's allocator for our servers, which read them when they start.

By default each thread has a heap of its own, and each heap keeps blocks of up to 32 MB once one was
freed, so that memory grows with every mix of sizes. Processes that return freed memory at intervals
change the second (`serving.common.memory`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

__all__ = ["allocator_environment", "restart_with_allocator"]

VARIABLE: Final = "GLIBC_TUNABLES"
TUNABLES: Final = {"arena_max": 1, "mmap_threshold": 1 << 20}


def allocator_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with our settings, unless it has settings of its own.

    Args:
        environment: of a process to start.
    """
    settings = ":".join(f"glibc.malloc.{name}={value}" for name, value in TUNABLES.items())
    return {VARIABLE: settings, **environment}


def restart_with_allocator(module: str) -> None:
    """Replace this program by itself with our settings, unless its environment has any.

    It keeps its process, arguments and files.

    Args:
        module: that `python -m` runs.
    """
    if VARIABLE not in os.environ:
        words = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, words, allocator_environment(os.environ))
