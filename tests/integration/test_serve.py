"""Command that runs Triton and the gateway together and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.ports import answers, listeners, processes_below
from cpcsam.client import Prompt, SegmentationClient
from cpcsam.grpc_errors import AuthenticationError
from serving.gateway.auth.tokens import USER, digest_of
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
                if any(os.path.samefile(file, log) for file in (process / "fd").iterdir()):
                    holders.append(int(process.name))
    return holders


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


def test_serve_command_ends_when_triton_does(repository: Path, tmp_path: Path) -> None:
    with served(repository, tmp_path) as (process, _):
        server = re.compile(rb"tritonserver\0")
        (triton,) = (
            number
            for number in tritons(tmp_path / "triton.log")
            if server.search(Path(f"/proc/{number}/cmdline").read_bytes())
            and number == os.getpgid(number)
        )
        os.kill(triton, signal.SIGKILL)
        assert process.wait(60) == 2
    message = (tmp_path / "stderr").read_text()
    assert "python -m serving.serve: Triton: got its end, with exit status -9" in message
    assert "Traceback" not in message
    wait_until_gone(tmp_path / "triton.log")


def test_serve_command_with_invalid_options_fails_before_triton_starts(
    repository: Path, tmp_path: Path
) -> None:
    log = tmp_path / "triton.log"
    for options, message in (
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
