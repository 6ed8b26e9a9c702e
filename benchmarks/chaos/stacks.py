"""Starts of the service for faults: under its supervisor, or a gateway before given Tritons."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.serving.ports import free_port
from benchmarks.serving.stack import service
from cpcsam.errors import ServingError
from demo.commands import Service, child

__all__ = ["RunningGateway", "gateway_of", "port_of", "supervised"]

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
