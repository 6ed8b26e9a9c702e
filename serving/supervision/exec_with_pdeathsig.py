"""Execute a program with a parent-death signal: it gets SIGTERM when its parent ends in any way.

python exec_with_pdeathsig.py PARENT_PID PROGRAM [ARGUMENT ...]

The signal is PR_SET_PDEATHSIG of prctl(2), which survives execve. It is set in a process of its
own, because no Python code may safely run between fork and execve of a process with threads, such
as a gRPC client. To the kernel the parent is the thread that started the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["ending_with_this_process", "main"]

PR_SET_PDEATHSIG = 1


def ending_with_this_process(command: Sequence[str]) -> list[str]:
    """Return the command that runs another so that it ends when the calling thread does.

    Args:
        command: absolute path of a program, and its arguments.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Set the signal and replace this process by the command, unless the parent has ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:
        os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
