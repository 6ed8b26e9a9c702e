"""Command that runs Triton and the gateway together and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from benchmarks.serving.ports import answers, listeners, processes_below
from cpcsam.artifacts.versions import switch_to
from cpcsam.client import Prompt, SegmentationClient
from cpcsam.errors import ServingError
from cpcsam.grpc_errors import AuthenticationError
from export.triton_repository.publishing import build_repository
from serving.gateway.auth.tokens import USER, digest_of
from serving.supervision.gateway_process import supervised_gateway
from serving.supervision.processes import read_process
from serving.supervision.restarts import RestartLog
from tests.support.gateway_watch import make_certificate
from tests.support.paths import ROOT

pytestmark = pytest.mark.triton

IMAGE = np.zeros((20, 30, 3), np.uint8)


def command(repository: Path, log: Path) -> list[str]:
    ports = ["--port", "0", "--metrics-port", "0"]
    start = [sys.executable, "-m", "serving.serve", "--repository", str(repository)]
    return [*start, *ports, "--triton-log", str(log)]


@contextlib.contextmanager
def served(
    repository: Path, tmp_path: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command and the gateway's address; its stderr goes to a file."""
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [*command(repository, tmp_path / "triton.log"), *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    late = threading.Timer(180, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next((line.split()[1] for line in lines if line.startswith("gateway")), None)
        assert address is not None, (tmp_path / "stderr").read_text()
        yield process, address
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def tritons(log: Path) -> list[int]:
    """Processes that hold Triton's log open."""
    holders = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if any(is_same(file, log) for file in (process / "fd").iterdir()):
                    holders.append(int(process.name))
    return holders


def is_same(file: Path, log: Path) -> bool:
    try:
        return os.path.samefile(file, log)
    except OSError:  # it was closed meanwhile
        return False


def wait_until_gone(log: Path) -> None:
    deadline = time.monotonic() + 20
    while left := tritons(log):
        assert time.monotonic() < deadline, f"processes {left} are left behind"
        time.sleep(0.1)


def require_end_of_both(
    process: subprocess.Popen[str], number: signal.Signals, folder: Path
) -> None:
    """Send a signal to the command and require that nothing of it is left, and no traceback."""
    assert tritons(folder / "triton.log")
    process.send_signal(number)
    assert process.wait(60) == 0
    assert "Traceback" not in (folder / "stderr").read_text()
    wait_until_gone(folder / "triton.log")


def test_serve_command_starts_and_stops_both(repository: Path, tmp_path: Path) -> None:
    with served(repository, tmp_path) as (process, address):
        with SegmentationClient(address, timeout_s=60) as client:
            assert client.healthy()
            assert len(client.segment(IMAGE, [Prompt.click(3, 4)] * 17).masks) == 17
        require_end_of_both(process, signal.SIGINT, tmp_path)


def test_serve_command_exposes_only_gateway_and_metrics_and_stops_on_sigterm(
    repository: Path, tmp_path: Path
) -> None:
    """A server on all addresses also answers at 127.0.0.2, one on 127.0.0.1 does not."""
    files = make_certificate(tmp_path)
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(f"lab {USER} {digest_of('the-token')}\n")
    options = {
        "--host": "0.0.0.0",
        "--metrics-host": "0.0.0.0",
        "--tokens": tokens,
        "--tls-cert": files.certificate,
        "--tls-key": files.key,
    }
    words = [str(word) for pair in options.items() for word in pair]
    with served(repository, tmp_path, *words) as (process, address):
        assert process.stdout is not None
        metrics = next(line for line in process.stdout if line.startswith("metrics"))
        published = {int(text.rpartition(":")[2].split("/")[0]) for text in (address, metrics)}
        found = {
            listener.port: listener.address for listener in listeners(processes_below(process.pid))
        }
        assert published < found.keys() and len(found) == 5, "Triton has three ports of its own"
        assert {found[port] for port in found.keys() - published} == {"127.0.0.1"}
        assert {port for port in found if answers("127.0.0.2", port)} == published
        gateway = f"127.0.0.2:{address.rpartition(':')[2]}"
        reach = partial(SegmentationClient, gateway, ca=files.certificate, timeout_s=30)
        with reach(token="the-token") as known:
            assert len(known.segment(IMAGE, [Prompt.click(3, 4)]).masks) == 1
        with reach() as unknown, pytest.raises(AuthenticationError):
            unknown.segment(IMAGE, [Prompt.click(3, 4)])
        require_end_of_both(process, signal.SIGTERM, tmp_path)
    for log in ("stderr", "triton.log"):
        assert "the-token" not in (tmp_path / log).read_text()


def running(parent: int, words: str) -> int:
    """The process below a parent whose command line matches, without what it is about to start."""
    found = {
        process
        for process in processes_below(parent)
        if re.search(words, Path(f"/proc/{process}/cmdline").read_text().replace("\0", " "))
    }
    (first,) = {one for one in found if not (read := read_process(one)) or read.parent not in found}
    return first


def wait_for_another(parent: int, words: str, killed: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(ValueError, OSError):
            if running(parent, words) != killed:
                return
        assert time.monotonic() < deadline, f"nothing like {words} was started again"
        time.sleep(0.05)


STEP = r"triton_python_backend_stub \S+/decoder/"
SERVER = r"^\S+/bin/tritonserver "
GATEWAY = r"-m serving\.gateway "


def test_serve_command_restarts_whatever_is_killed(repository: Path, tmp_path: Path) -> None:
    with served(repository, tmp_path) as (process, address):
        assert process.stdout is not None
        metrics = next(line.split()[1] for line in process.stdout if line.startswith("metrics"))
        gateway = running(process.pid, GATEWAY)
        with SegmentationClient(address, timeout_s=60) as client:
            for words in (STEP, SERVER, GATEWAY):
                victim = running(process.pid, words)
                os.kill(victim, signal.SIGKILL)
                wait_for_another(process.pid, words, victim)
                # The client repeats what is UNAVAILABLE, at the same address, until its time limit.
                assert len(client.segment(IMAGE, [Prompt.click(3, 4)]).masks) == 1
                if words != GATEWAY:
                    assert running(process.pid, GATEWAY) == gateway, "it went on"
        with urlopen(metrics) as page:
            counts = re.findall(
                r'restarts_total\{cause="(\w+)",program="(\w+)"\} 1', page.read().decode()
            )
        assert sorted(counts) == [("exit", "gateway"), ("exit", "triton"), ("step", "triton")]
        victim = running(process.pid, SERVER)
        os.kill(victim, signal.SIGKILL)
        wait_for_another(process.pid, SERVER, victim)
        require_end_of_both(process, signal.SIGTERM, tmp_path)  # while Triton loads its models
    log = (tmp_path / "stderr").read_text()
    assert "Triton: the process of its step decoder ended" in log
    assert "Triton: it ended with exit status -9" in log
    assert "gateway: exit status -9" in log


def test_serve_command_restarts_with_what_is_published_and_ends_when_that_is_gone(
    graphs: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    build_repository(graphs, store)
    shutil.copytree(store / "1", store / "2")
    with served(store, tmp_path) as (process, address):
        switch_to(store, 2)
        os.kill(running(process.pid, SERVER), signal.SIGKILL)
        second = rf"^\S+/bin/tritonserver --model-repository={store}/2 "
        wait_for_another(process.pid, second, 0)
        with SegmentationClient(address, timeout_s=60) as client:
            client.segment(IMAGE, [Prompt.click(3, 4)])  # all models are loaded then
        shutil.rmtree(store)
        os.kill(running(process.pid, second), signal.SIGKILL)
        assert process.wait(60) == 2
    message = (tmp_path / "stderr").read_text()
    assert re.search(r"^python -m serving\.serve: .*no manifest", message, re.M)
    assert "Traceback" not in message
    wait_until_gone(tmp_path / "triton.log")


def test_serve_command_ends_with_everything_when_it_is_killed(
    repository: Path, tmp_path: Path
) -> None:
    with served(repository, tmp_path) as (process, address):
        children = processes_below(process.pid)
        assert len(children) > 5
        process.kill()
        wait_until_gone(tmp_path / "triton.log")
        assert not answers("127.0.0.1", int(address.rpartition(":")[2]))


def test_serve_command_with_invalid_options_fails_before_triton_starts(
    repository: Path, tmp_path: Path
) -> None:
    log = tmp_path / "triton.log"
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    for options, message in (
        (["--port", port], f"--port: got {port} ([Errno 98] Address already in use)"),
        (["--max-prompts", "0"], "max_prompts: got 0, expected at least 1"),
        (["--port", "70000"], "expected a port from 0 to 65535"),
        (["--tokens", str(tmp_path / "none")], "expected a file of tokens"),
        (["--tls-key", str(tmp_path / "none")], "TLS: got --tls-key alone"),
        (["--repository", str(tmp_path)], "no manifest.json"),
    ):
        done = subprocess.run(
            [*command(repository, log), *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not log.exists()
    taken.close()


def test_gateway_that_does_not_start_is_not_restarted(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(ServingError, match="the gateway: got exit status 2, expected a server"),
        supervised_gateway(["--port", "70000"], RestartLog(), grace_s=1.0),
    ):
        pass
    assert capfd.readouterr().err.count("expected a port from 0 to 65535") == 1
