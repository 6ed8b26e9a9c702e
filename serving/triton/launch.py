"""Process management of the real Triton server on this machine, without a container."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cpcsam.errors import ServingError
from cpcsam.gpu import visible_gpus
from serving.supervision.exec_with_pdeathsig import ending_with_this_process
from serving.supervision.ports import reserved_ports
from serving.supervision.processes import processes
from serving.triton.check_repository import check_machine, open_repository
from serving.triton.install import TritonInstall, find_triton
from serving.triton.probe import is_ready
from serving.triton.startup_log import failure_cause

__all__ = [
    "HOST",
    "START_TIMEOUT_S",
    "StartError",
    "TritonServer",
    "launch_triton",
    "temporary_log",
]

CHECKOUT: Final = Path(__file__).resolve().parents[2]
HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 180.0
GROUP_TIMEOUT_S: Final = 5.0
EXIT_TIMEOUT_S: Final = 10
CLOSED_APIS: Final = "shared-memory,model-repository,trace,logging"
SERVICE_NAME: Final = "cpcsam-triton"
BATCH_DELAY_MS: Final = 1000
"""Between exports of spans."""
SHARED_MEMORY: Final = Path("/dev/shm")


class StartError(ServingError):
    """Triton was started but does not serve, which another start may mend."""


@dataclass(frozen=True)
class TritonServer:
    """A running Triton server.

    Attributes:
        grpc_url: `host:port`, as gRPC clients take it.
        http_url: root URL of the HTTP endpoint.
        metrics_url: URL of the Prometheus endpoint.
        log: output of the server and its models.
        process: the server, leader of the process group that includes its models.
    """

    grpc_url: str
    http_url: str
    metrics_url: str
    log: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill the server and its models, which answer nobody any more."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def launch_triton(
    repository: Path,
    *,
    grpc_port: int = 0,
    http_port: int = 0,
    metrics_port: int = 0,
    log: Path | None = None,
    traces: str | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[TritonServer]:
    """Start Triton with a repository, yield it when every model is ready, and stop it.

    The server also ends when this process does, or the thread that called this.

    Args:
        repository: versions of a repository for ONNX Runtime, of which the current one is served
            until the end, even if another is published meanwhile; or a single version.
        grpc_port: on the loopback interface; 0 takes a free one. Likewise the other ports.
        http_port: see grpc_port.
        metrics_port: see grpc_port.
        log: file to append to; None takes a temporary one, which stays only if Triton fails.
        traces: URL of OTLP/HTTP to which it sends the spans of requests that have a `traceparent`;
            None sends none.
        timeout_s: time limit for loading the models.

    Raises:
        ArtifactError: no such repository, or an altered one.
        StartError: a model failed, or the time was over.
        ServingError: a dependency of Triton, or the GPU that the repository is for, is missing; or
            a port is in use.
    """
    repository, manifest = open_repository(repository)
    gpus = visible_gpus() if manifest.config.get("target") == "cuda" else ()
    check_machine(repository, manifest, tensorrt=None, gpus=gpus)
    install = find_triton()
    requested = {
        "--grpc-port": grpc_port,
        "--http-port": http_port,
        "--metrics-port": metrics_port,
    }
    memory = f"cpcsam-{secrets.token_hex(8)}-"
    with ExitStack() as cleanup:
        ports = cleanup.enter_context(reserved_ports(HOST, requested))
        log_path = log or cleanup.enter_context(temporary_log())
        log_path.parent.mkdir(parents=True, exist_ok=True)
        file = cleanup.enter_context(log_path.open("ab"))
        written_before = file.tell()
        command = _command(install, repository, ports, memory)
        process = _spawn([*command, *_trace_options(traces)], install, file)
        cleanup.callback(_stop, process, memory)
        http_address = f"{HOST}:{ports['--http-port']}"
        _wait_until_ready(process, http_address, log_path, written_before, timeout_s)
        try:
            yield TritonServer(
                grpc_url=f"{HOST}:{ports['--grpc-port']}",
                http_url=f"http://{http_address}",
                metrics_url=f"http://{HOST}:{ports['--metrics-port']}/metrics",
                log=log_path,
                process=process,
            )
        finally:
            if log is None and process.poll() is None:
                cleanup.callback(log_path.unlink, missing_ok=True)


@contextmanager
def temporary_log() -> Iterator[Path]:
    """Make a temporary file for a log, which goes in the end if nothing was written."""
    handle, name = tempfile.mkstemp(prefix="cpcsam-triton-", suffix=".log")
    os.close(handle)
    path = Path(name)
    try:
        yield path
    finally:
        if path.exists() and not path.stat().st_size:
            path.unlink()


def _command(
    install: TritonInstall, repository: Path, ports: dict[str, int], memory: str
) -> list[str]:
    # The closed interfaces answer only to callers with this secret, which nobody has.
    closed = f"{CLOSED_APIS}:admin={secrets.token_urlsafe(32)}"
    options = {
        "--model-repository": repository,
        **install.options,
        "--backend-config": f"python,shm-region-prefix-name={memory}",
        "--grpc-address": HOST,
        "--http-address": HOST,
        "--metrics-address": HOST,
        **ports,
        "--model-control-mode": "none",
        "--disable-auto-complete-config": None,
        "--strict-readiness": "true",
        "--exit-on-error": "true",
        "--exit-timeout-secs": EXIT_TIMEOUT_S,
        "--grpc-restricted-protocol": closed,
        "--http-restricted-api": closed,
        "--metrics-config": "summary_latencies=true",
        "--allow-gpu-metrics": "false",
        "--pinned-memory-pool-byte-size": 0,
    }
    return [
        str(install.server),
        *(name if value is None else f"{name}={value}" for name, value in options.items()),
    ]


def _trace_options(url: str | None) -> list[str]:
    if url is None:
        return []
    settings = {
        "mode": "opentelemetry",
        "level": "TIMESTAMPS",
        "rate": 0,  # of those without a caller's trace, such as probes
        "count": -1,
        "opentelemetry,url": url,
        "opentelemetry,resource": f"service.name={SERVICE_NAME}",
        "opentelemetry,bsp_schedule_delay": BATCH_DELAY_MS,
    }
    return [f"--trace-config={name}={value}" for name, value in settings.items()]


def _spawn(command: list[str], install: TritonInstall, log: Any) -> subprocess.Popen[bytes]:
    """Start the server in its own session, so that Ctrl-C in a terminal does not reach it."""
    return subprocess.Popen(
        ending_with_this_process(command),
        # It ignores PYTHONPATH but imports `serving` and `cpcsam` from its working directory.
        cwd=CHECKOUT,
        env=install.environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _wait_until_ready(
    process: subprocess.Popen[bytes], address: str, log: Path, start: int, timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_ready(address):
        late = time.monotonic() > deadline
        if process.poll() is None and not late:
            time.sleep(0.1)
            continue
        state = f"not ready after {timeout_s:g} s" if late else f"exit {process.returncode}"
        cause = failure_cause(log.read_bytes()[start:].decode(errors="replace"))
        raise StartError.of(
            "Triton", got=f"{state}: {cause}", expected="every model ready", fix=f"see {log}"
        )


def _stop(process: subprocess.Popen[bytes], memory: str) -> None:
    """Terminate the server gracefully, then kill its process group and free its shared memory."""
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_TIMEOUT_S + 5)
    finally:
        # Stubs of Python models are processes of their own and may outlive the server.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _wait_until_gone(process.pid)
        for region in SHARED_MEMORY.glob(f"{memory}*"):
            region.unlink(missing_ok=True)


def _wait_until_gone(group: int) -> None:
    """Wait until the kernel has ended killed processes that are not children of this process."""
    deadline = time.monotonic() + GROUP_TIMEOUT_S
    while time.monotonic() < deadline and any(one.group == group for one in processes()):
        time.sleep(0.02)
