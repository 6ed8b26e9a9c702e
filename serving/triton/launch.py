"""Process management of the real Triton server on this machine, without a container."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cpcsam.errors import ServingError
from serving.triton.check_repository import check_engines, open_repository
from serving.triton.install import TritonInstall, find_triton
from serving.triton.startup_log import failure_cause

__all__ = ["START_TIMEOUT_S", "TritonServer", "launch_triton"]

CHECKOUT: Final = Path(__file__).resolve().parents[2]
HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 180.0
GROUP_TIMEOUT_S: Final = 5.0
EXIT_TIMEOUT_S: Final = 10
CLOSED_APIS: Final = "shared-memory,model-repository,trace,logging"
SHARED_MEMORY: Final = Path("/dev/shm")


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


@contextmanager
def launch_triton(
    repository: Path,
    *,
    grpc_port: int = 0,
    http_port: int = 0,
    metrics_port: int = 0,
    log: Path | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[TritonServer]:
    """Start Triton with a repository, yield it when every model is ready, and stop it.

    The server also ends when this process does, or the thread that called this.

    Args:
        repository: versions of a repository for the CPU, of which the current one is served until
            the end, even if another is published meanwhile; or a single version.
        grpc_port: on the loopback interface; 0 takes a free one. Likewise the other ports.
        http_port: see grpc_port.
        metrics_port: see grpc_port.
        log: file to write; None takes a temporary one, which stays only if Triton fails.
        timeout_s: time limit for loading the models.

    Raises:
        ArtifactError: no such repository, or an altered one.
        ServingError: a dependency of Triton is missing, a port is in use, or a model failed.
    """
    repository, manifest = open_repository(repository)
    check_engines(repository, manifest, tensorrt=None, gpus=())
    install = find_triton()
    ports = _ports(
        {"--grpc-port": grpc_port, "--http-port": http_port, "--metrics-port": metrics_port}
    )
    log_path = log or _temporary_log()
    memory = f"cpcsam-{secrets.token_hex(8)}-"
    command = _command(install, repository, ports, memory)
    with ExitStack() as cleanup:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        file = cleanup.enter_context(log_path.open("wb"))
        process = _spawn(command, install, file)
        cleanup.callback(_stop, process, memory)
        _wait_until_ready(process, ports["--http-port"], log_path, timeout_s)
        try:
            yield TritonServer(
                grpc_url=f"{HOST}:{ports['--grpc-port']}",
                http_url=f"http://{HOST}:{ports['--http-port']}",
                metrics_url=f"http://{HOST}:{ports['--metrics-port']}/metrics",
                log=log_path,
                process=process,
            )
        finally:
            if log is None and process.poll() is None:
                cleanup.callback(log_path.unlink, missing_ok=True)


def _temporary_log() -> Path:
    handle, name = tempfile.mkstemp(prefix="cpcsam-triton-", suffix=".log")
    os.close(handle)
    return Path(name)


def _ports(requested: dict[str, int]) -> dict[str, int]:
    """Check the requested ports and replace 0 by free ones, all distinct."""
    with ExitStack() as probes:
        return {option: _bind(probes, option, port) for option, port in requested.items()}


def _bind(probes: ExitStack, option: str, port: int) -> int:
    probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    # So that a port in TIME_WAIT counts as free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise ServingError.of(
            option, got=f"{port} ({error})", expected="a free port", fix="give another, or 0"
        ) from error
    return int(probe.getsockname()[1])


def _command(
    install: TritonInstall, repository: Path, ports: dict[str, int], memory: str
) -> list[str]:
    # The closed interfaces answer only to callers with this secret, which nobody has.
    closed = f"{CLOSED_APIS}:admin={secrets.token_urlsafe(32)}"
    options = {
        "--model-repository": repository,
        "--backend-directory": install.backends,
        "--cache-directory": install.caches,
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


def _spawn(command: list[str], install: TritonInstall, log: Any) -> subprocess.Popen[bytes]:
    """Start the server in its own session, so that Ctrl-C in a terminal does not reach it."""
    libraries = [*map(str, install.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    executables = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        # The Python backend derives its home from the first python3 of PATH.
        "PATH": os.pathsep.join(executables),
    }
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("exec_with_pdeathsig.py"))]
    return subprocess.Popen(
        [*launcher, str(os.getpid()), *command],
        # It ignores PYTHONPATH but imports `serving` and `cpcsam` from its working directory.
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _wait_until_ready(
    process: subprocess.Popen[bytes], http_port: int, log: Path, timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    while not _is_ready(http_port):
        late = time.monotonic() > deadline
        if process.poll() is None and not late:
            time.sleep(0.1)
            continue
        state = f"not ready after {timeout_s:g} s" if late else f"exit {process.returncode}"
        cause = failure_cause(log.read_text(errors="replace"))
        raise ServingError.of(
            "Triton", got=f"{state}: {cause}", expected="every model ready", fix=f"see {log}"
        )


def _is_ready(http_port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, http_port, timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


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
    """Wait until the kernel has removed killed processes that are not children of this process."""
    deadline = time.monotonic() + GROUP_TIMEOUT_S
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)
