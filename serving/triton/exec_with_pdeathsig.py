"""Run a program that is told to end when its parent ends, however that ends.

python exec_with_pdeathsig.py PARENT_PID PROGRAM [ARGUMENT ...]

The kernel sends SIGTERM (PR_SET_PDEATHSIG of prctl(2)); the setting survives execve. It is asked
for here, in a process of its own, because between fork and execve of a process with threads, such
as a gRPC client, no Python code may safely run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process by the command, unless the parent has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:
        os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
