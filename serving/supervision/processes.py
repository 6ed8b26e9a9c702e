"""Processes as /proc/PID/stat shows them: parent, process group, and whether they still run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Process", "processes", "read_process"]

PROC: Final = Path("/proc")
DEAD: Final = "ZX"
"""States of a process that has ended and that its parent has not waited for."""


@dataclass(frozen=True)
class Process:
    """A process that has not ended.

    Attributes:
        pid: its number.
        name: of its program, 15 characters at most.
        parent: number of its parent.
        group: number of its process group.
    """

    pid: int
    name: str
    parent: int
    group: int


def read_process(pid: int) -> Process | None:
    """Return a process; None if it has ended, whether or not its parent has waited for it."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may itself hold spaces and parentheses.
    start, _, rest = text.rpartition(")")
    state, parent, group = rest.split()[:3]
    if state in DEAD:
        return None
    return Process(pid, start.partition("(")[2], int(parent), int(group))


def processes() -> Iterator[Process]:
    """Iterate over the processes that have not ended."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (process := read_process(int(entry.name))) is not None:
            yield process
