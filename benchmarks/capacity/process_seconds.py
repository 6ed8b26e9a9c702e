"""CPU seconds of the service's processes by the step that they compute."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.capacity.service_times import GATEWAY
from benchmarks.serving.ports import processes_below

__all__ = ["CLIENT", "SERVER", "process_seconds"]

CLIENT: Final = "client"
"""This process, which sends the requests."""
SERVER: Final = "tritonserver"
STEP: Final = re.compile(r"/(\w+)/\d+/model\.py\b")
"""The file of a step, which its process has as an argument."""


def process_seconds(pid: int) -> dict[str, float]:
    """Return CPU time so far, user and system, of a service's steps, server, gateway and client.

    Args:
        pid: of `serving.serve`.
    """
    spent = {CLIENT: time.process_time(), SERVER: 0.0, GATEWAY: 0.0}
    for process in processes_below(pid):
        with suppress(OSError):  # it has just ended
            command = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
            # After the name, which may hold spaces; then 11 and 12 are utime and stime.
            times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
            name = _name(command)
            if name:
                seconds = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
                spent[name] = spent.get(name, 0.0) + seconds
    return spent


def _name(command: str) -> str | None:
    if step := STEP.search(command):
        return step[1]
    if "serving.gateway" in command:
        return GATEWAY
    return SERVER if SERVER in command.partition(" ")[0] else None
