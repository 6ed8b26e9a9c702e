"""The service that faults hit: its starts, its processes by their role, and their memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.serving.ports import LISTEN, free_port, processes_below
from benchmarks.serving.stack import service
from cpcsam.errors import ServingError
from demo.commands import Service, child

__all__ = [
    "GATEWAY",
    "TRITON",
    "RunningGateway",
    "gateway_of",
    "kill",
    "memory_below",
    "memory_bytes",
    "port_of",
    "roles_below",
    "run_delay_s",
    "steps_below",
    "supervised",
]

TRITON: Final = "triton"
GATEWAY: Final = "gateway"
SERVER: Final = "tritonserver"
STUB: Final = "triton_python_backend_stub"
START_TIMEOUT_S: Final = 60.0
HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class RunningGateway:
    """A gateway in a process of its own.

    Attributes:
        address: HOST:PORT of the API.
        metrics_url: its Prometheus page.
        pid: of the process.
        log: its standard error.
    """

    address: str
    metrics_url: str
    pid: int
    log: Path


@contextmanager
def supervised(repository: Path, build: Path) -> Iterator[Service]:
    """Run `serving.serve` for the duration of the block; what it restarts keeps its ports.

    Args:
        repository: to serve.
        build: for logs.
    """
    ports = ("--port", str(free_port()), "--metrics-port", str(free_port()))
    with service(repository, build, *ports) as running:
        yield running


@contextmanager
def gateway_of(triton: str, build: Path, *options: str | Path) -> Iterator[RunningGateway]:
    """Run a gateway on free ports of loopback for the duration of the block.

    Args:
        triton: addresses of Triton, as `serving.gateway --triton` takes them.
        build: for its log.
        options: further ones of `serving.gateway`.

    Raises:
        ServingError: it did not start.
    """
    build.mkdir(parents=True, exist_ok=True)
    log = build / "gateway.log"
    words = ["serving.gateway", "--triton", triton, "--port", "0", "--metrics-port", "0"]
    with (
        log.open("w") as errors,
        child(
            [sys.executable, "-u", "-m", *words, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        late = threading.Timer(START_TIMEOUT_S, process.kill)
        late.start()
        assert process.stdout is not None
        found = dict.fromkeys(("gateway", "metrics"), "")
        for line in process.stdout:
            word = re.match(r"(gateway|metrics)\s+(\S+)", line)
            if word:
                found[word[1]] = word[2]
            if all(found.values()):
                break
        late.cancel()
        if not all(found.values()):
            last = deque(log.read_text().splitlines(), 5)
            raise ServingError.of(
                "serving.gateway", got=" / ".join(last), expected="a gateway", fix=f"see {log}"
            )
        yield RunningGateway(found["gateway"], found["metrics"], process.pid, log)


def port_of(address: str) -> int:
    """Port of HOST:PORT."""
    return int(address.rpartition(":")[2])


def roles_below(parent: int, gateway_port: int) -> dict[str, list[int]]:
    """Find the service's processes among a process and its descendants.

    Args:
        parent: id of the command that started the service.
        gateway_port: at which the gateway listens.

    Returns:
        Process ids by role: `gateway`, `triton`, and each Python step of Triton by its name; what
        has no role is left out.
    """
    roles: dict[str, list[int]] = {}
    for process in sorted(processes_below(parent)):
        role = _role(process, gateway_port)
        if role is not None:
            roles.setdefault(role, []).append(process)
    return roles


def steps_below(parent: int) -> dict[str, list[int]]:
    """Find the stub processes of Triton's Python steps, by the step's name."""
    roles = roles_below(parent, gateway_port=-1)
    return {role: found for role, found in roles.items() if role != TRITON}


def _role(process: int, gateway_port: int) -> str | None:
    words = _command_line(process)
    program = Path(words[0]).name if words else ""
    if program == SERVER:
        return TRITON
    if program == STUB:
        # PROGRAM …/MODEL/VERSION/model.py …
        return Path(words[1]).parents[1].name
    return GATEWAY if gateway_port in _listening_ports(process) else None


def _command_line(process: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    return []


def _listening_ports(process: int) -> Iterator[int]:
    """TCP ports at which a process listens."""
    sockets = set()
    with suppress(OSError):
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(file))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            row = line.split()
            if row[3] == LISTEN and f"socket:[{row[9]}]" in sockets:
                yield int(row[1].rpartition(":")[2], 16)


def kill(process: int) -> None:
    """Kill a process as the kernel's memory killer does, by SIGKILL."""
    os.kill(process, signal.SIGKILL)


def memory_bytes(process: int) -> int:
    """Resident memory of a process, bytes; 0 when it has ended."""
    with suppress(OSError, IndexError):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def memory_below(process: int) -> int:
    """Resident memory of a process and its descendants, bytes; shared pages count for each."""
    return sum(map(memory_bytes, processes_below(process)))


def run_delay_s(process: int, thread: int | None = None) -> float:
    """Seconds for which a thread was ready and had no core, so far; 0 where the kernel hides it.

    Args:
        process: its process.
        thread: its id; None is the main thread.
    """
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/task/{thread or process}/schedstat").read_text().split()
        return int(fields[1]) / 1e9
    return 0.0
