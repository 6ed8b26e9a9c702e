"""Child processes of the demonstration: the stages' commands and the service."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cpcsam.errors import CpcSamError, ServingError

__all__ = ["DemoError", "Service", "child", "run_stage", "serve"]

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 30.0
SHOWN_LINES: Final = 15


class DemoError(CpcSamError):
    """A step of the demonstration failed or missed its target."""


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        gateway: HOST:PORT of the API.
        triton: HOST:PORT of Triton's gRPC.
        gateway_metrics_url: the gateway's Prometheus page.
        triton_metrics_url: Triton's.
        pid: of the command that runs both.
        log: what both write, but for Triton's own log.
    """

    gateway: str
    triton: str
    gateway_metrics_url: str
    triton_metrics_url: str
    pid: int
    log: Path


def run_stage(title: str, module: str, *arguments: str | Path) -> float:
    """Run `python -m module arguments` with this process's output streams.

    Returns:
        Seconds taken.

    Raises:
        DemoError: the command failed.
    """
    words = [module, *map(str, arguments)]
    print(f"\n── {title}\n   python -m {' '.join(words)}", flush=True)
    started = time.monotonic()
    with child([sys.executable, "-m", *words]) as process:
        code = process.wait()
    if code:
        raise DemoError.of(
            title, got=f"exit status {code}", expected="0", fix="see the lines above"
        )
    return time.monotonic() - started


@contextmanager
def serve(repository: Path, log: Path, *options: str | Path) -> Iterator[Service]:
    """Run the service on free ports for the duration of the block, then end all of its processes.

    Args:
        repository: the model repository.
        log: gets the service's standard error.
        options: further ones of `serving.serve`.

    Raises:
        ServingError: it did not start; the cause is in the message.
    """
    words = ["serving.serve", "--repository", str(repository), "--port", "0", "--metrics-port", "0"]
    words += ["--no-http", *map(str, options)]
    print(f"\n── Serve\n   python -m {' '.join(words)}", flush=True)
    with (
        log.open("w") as errors,
        # -u: its addresses must not wait in its output buffer.
        child(
            [sys.executable, "-u", "-m", *words], stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        yield _addresses(process, process.stdout, log)


def _addresses(process: subprocess.Popen[str], stdout: IO[str], log: Path) -> Service:
    """Read the addresses that the service prints when it is ready."""
    # The loop below blocks on the child's output; killing the child ends it.
    deadline = threading.Timer(START_TIMEOUT_S, process.kill)
    deadline.start()
    found: dict[str, list[str]] = {"gateway": [], "triton": [], "metrics": []}
    for line in stdout:
        print(f"   {line}", end="", flush=True)
        word = re.match(r"(gateway|triton|metrics)\s+(\S+)", line)
        if word:
            found[word[1]].append(word[2])
        if found["gateway"] and len(found["metrics"]) == 2:
            deadline.cancel()
            triton_metrics, gateway_metrics = found["metrics"]
            (gateway,), (triton,) = found["gateway"], found["triton"]
            return Service(gateway, triton, gateway_metrics, triton_metrics, process.pid, log)
    deadline.cancel()
    last = deque(log.read_text().splitlines(), SHOWN_LINES)
    raise ServingError.of(
        "serving.serve",
        got=f"its end before it served: {' / '.join(last)}",
        expected="a running service",
        fix=f"see {log}",
    )


@contextmanager
def child(
    command: list[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: IO[str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a process for the duration of the block, and end it with the block.

    It gets SIGTERM first, so that it can stop its own children.
    """
    # In a session of its own: Ctrl-C reaches this process alone, which ends the child.
    process = subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=stderr, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
