"""The systems side by side: how each starts, and how requests reach it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from http.client import OK, HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Any, Final

import torch

from benchmarks.peers.load import run
from benchmarks.peers.load.drive import Connect, Sample
from benchmarks.peers.load.workloads import Workload
from benchmarks.peers.models import PeerModel
from benchmarks.peers.systems import clients
from benchmarks.serving.followup import PATIENT
from benchmarks.serving.ports import free_port
from benchmarks.serving.stack import service
from cpcsam.artifacts.versions import resolve_version
from cpcsam.errors import ServingError
from demo.commands import Service, child
from serving.triton.launch import launch_triton

__all__ = ["Running", "missing_hardware", "start"]

START_TIMEOUT_S: Final = 180.0
POLL_S: Final = 0.05


@dataclass(frozen=True)
class Running:
    """A system that answers.

    Attributes:
        pid: of the process that is, or started, all that serves.
        prime: makes a workload's repeated images known.
        drive: sends a workload, at a rate if it is not 0, and returns its times.
        masks: returns COCO run lengths of the masks of a workload's requests.
        service: addresses, if this is the whole service.
    """

    pid: int
    prime: Callable[[Workload], None]
    drive: Callable[[Workload, float], list[Sample]]
    masks: Callable[[Workload], list[list[bytes]]]
    service: Service | None = None


def missing_hardware(system: str) -> str | None:
    """Reason why a system cannot run on this machine, or None."""
    if system == "fast" and not torch.cuda.is_available():
        return "no GPU"
    return None


def start(
    system: str, model: PeerModel, out: Path, python: Path
) -> AbstractContextManager[Running]:
    """Start a system for the duration of a block.

    Args:
        system: a key of `plan.SYSTEMS`.
        model: to serve.
        out: folder of the logs.
        python: interpreter of the peers' environment.

    Raises:
        ServingError: it does not start.
    """
    out.mkdir(parents=True, exist_ok=True)
    if system == "litserve":
        return _litserve(model, out, python)
    if system == "triton":
        return _triton(model, out)
    if system == "gateway":
        return _gateway(model, out)
    return _in_process(system, model, out)


def _served(pid: int, connect: Connect, service: Service | None = None) -> Running:
    prime, drive, masks = (partial(part, connect) for part in (run.prime, run.drive, run.masks))
    return Running(pid, prime, drive, masks, service)  # type: ignore[arg-type]


@contextmanager
def _triton(model: PeerModel, out: Path) -> Iterator[Running]:
    version = resolve_version(model.repository)
    with launch_triton(version, log=out / "triton-alone.log") as server:
        caller = clients.TritonCaller(server.grpc_url)
        yield _served(server.process.pid, caller.connect)


@contextmanager
def _gateway(model: PeerModel, out: Path) -> Iterator[Running]:
    with service(model.repository, out, *PATIENT) as running:
        yield _served(running.pid, partial(clients.gateway, running.gateway), running)


@contextmanager
def _litserve(model: PeerModel, out: Path, python: Path) -> Iterator[Running]:
    port = free_port()
    module = "benchmarks.peers.systems.litserve_app"
    command = [str(python), "-m", module, "--weights", str(model.weights), "--port", str(port)]
    log = out / "litserve.log"
    with log.open("w") as file, child(command, stdout=file.fileno(), stderr=file) as process:
        try:
            _wait_until_healthy(process, port, log)
            yield _served(process.pid, partial(clients.litserve, port))
        finally:
            # Its workers are not ended by the signal that ends it.
            process.terminate()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait_until_healthy(process: subprocess.Popen[str], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _is_healthy(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServingError.of(
                "LitServe", got="no answer", expected="a running server", fix=f"see {log}"
            )
        time.sleep(POLL_S)


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _in_process(system: str, model: PeerModel, out: Path) -> Iterator[Running]:
    path = model.onnx if system == "onnx" else model.weights
    command = [sys.executable, "-m", "benchmarks.peers.systems.in_process", system, str(path)]
    log = out / f"{system}.log"
    pipe = subprocess.PIPE
    with log.open("w") as file, child(command, stdin=pipe, stdout=pipe, stderr=file) as process:
        assert process.stdin is not None and process.stdout is not None
        call = partial(_call, process.stdin, process.stdout, log)

        def drive(workload: Workload, rate: float) -> list[Sample]:
            return [Sample(*sample) for sample in call("drive", workload, rate)]

        def masks(workload: Workload) -> list[list[bytes]]:
            return [[mask.encode() for mask in found] for found in call("masks", workload)]

        yield Running(process.pid, partial(call, "prime"), drive, masks)


def _call(
    stdin: IO[str], stdout: IO[str], log: Path, action: str, workload: Workload, rate: float = 0
) -> Any:
    command = {"action": action, "workload": asdict(workload), "rate": rate}
    with suppress(BrokenPipeError):
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()
    answer = stdout.readline()
    if not answer:
        raise ServingError.of(
            action, got="the end of the process", expected="an answer", fix=f"see {log}"
        )
    return json.loads(answer)
