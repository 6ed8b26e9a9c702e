"""Script and health check of Triton's container, run without one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from serving.supervision.ports import reserved_ports
from serving.supervision.processes import processes
from serving.triton.probe import is_ready
from tests.support.paths import ROOT

pytestmark = [pytest.mark.triton, pytest.mark.slow]

TIMEOUT_S = 120


@pytest.fixture
def container(repository: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The script of Triton's container, with the wheel's server, and its HTTP address."""
    words = ("http", "grpc", "metrics")
    with (
        reserved_ports("127.0.0.1", dict.fromkeys(words, 0)) as ports,
        (tmp_path / "stderr").open("wb") as errors,
    ):
        process = subprocess.Popen(
            [ROOT / "deploy/triton.sh", *(f"--{word}-port={ports[word]}" for word in words)],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "CPCSAM_MODELS": str(repository),
            },
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        address = f"127.0.0.1:{ports['http']}"
        try:
            deadline = monotonic() + TIMEOUT_S
            while not is_ready(address):
                assert process.poll() is None and monotonic() < deadline
                sleep(0.1)
            yield process, address
        finally:
            process.terminate()
            process.wait()


def check(address: str) -> subprocess.CompletedProcess[str]:
    """Run the health check of Triton's container."""
    words = ["--http-port", address.rpartition(":")[2], "--timeout", "30"]
    command = [sys.executable, "-m", "serving.watch", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def children(parent: int) -> dict[int, str]:
    """Return the command lines of a process's children."""
    return {
        one.pid: Path(f"/proc/{one.pid}/cmdline").read_text()
        for one in processes()
        if one.parent == parent
    }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_container_ends_with_a_dead_step_or_a_signal(
    container: tuple[subprocess.Popen[bytes], str], number: signal.Signals, tmp_path: Path
) -> None:
    process, address = container
    healthy = check(address)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    [server] = children(process.pid)
    [step] = [pid for pid, words in children(server).items() if "/decoder/" in words]
    os.kill(step if number == signal.SIGKILL else process.pid, number)
    assert process.wait(TIMEOUT_S) == (2 if number == signal.SIGKILL else 0)
    deadline = monotonic() + TIMEOUT_S
    while any(one.group == server for one in processes()):
        assert monotonic() < deadline
        sleep(0.1)
    message = "python -m serving.watch: Triton: got the process of its step decoder ended"
    assert (message in (tmp_path / "stderr").read_text()) == (number == signal.SIGKILL)
    done = check(address)
    assert done.returncode == 2
    assert re.fullmatch(rf"python -m serving\.watch: Triton at {address}: got .*\n", done.stderr)


def test_server_of_a_killed_watch_ends(container: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = container
    process.kill()
    deadline = monotonic() + TIMEOUT_S
    while is_ready(address):
        assert monotonic() < deadline
        sleep(0.1)


def test_watch_of_an_unknown_program_names_it() -> None:
    command = [sys.executable, "-m", "serving.watch", "no-such-server", "--option=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("python -m serving.watch: no-such-server: got no such program")
