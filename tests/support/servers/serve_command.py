"""The command that runs the whole service, and the processes that belong to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.serving.ports import answers, processes_below
from serving.gateway.auth.tokens import USER, digest_of
from serving.supervision.processes import read_process
from tests.support.paths import ROOT


def token_file(folder: Path) -> Path:
    """A file with the token of a user of the tenant `lab`."""
    path = folder / "tokens.txt"
    path.write_text(f"lab {USER} {digest_of('the-token')}\n")
    return path


def command(repository: Path, log: Path) -> list[str]:
    ports = ["--port", "0", "--metrics-port", "0", "--http-port", "0", "--http-metrics-port", "0"]
    start = [sys.executable, "-m", "serving.serve", "--repository", str(repository)]
    return [*start, *ports, "--triton-log", str(log)]


IN_TURN = """
import json, sys
from serving.serve import main

def code_of(words):
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code

print(json.dumps([code_of(words) for words in json.load(sys.stdin)]))
"""


def run_in_turn(commands: Sequence[Sequence[str]]) -> tuple[list[int], list[str]]:
    """Exit codes and lines of stderr of commands that fail, in a process that imports them once."""
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN],
        input=json.dumps([words[3:] for words in commands]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    return json.loads(done.stdout), done.stderr.splitlines()


@contextlib.contextmanager
def served(
    repository: Path, tmp_path: Path, *options: str, limit_s: float = 900
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
    late = threading.Timer(limit_s, process.kill)
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
    deadline = time.monotonic() + 120
    while left := tritons(log):
        assert time.monotonic() < deadline, f"processes {left} are left behind"
        time.sleep(0.1)


def wait_until_closed(address: str) -> None:
    """Wait until nobody accepts connections at an address of loopback."""
    deadline = time.monotonic() + 120
    while answers("127.0.0.1", int(address.rpartition(":")[2])):
        assert time.monotonic() < deadline, f"{address} still answers"
        time.sleep(0.1)


def require_end_of_both(
    process: subprocess.Popen[str], number: signal.Signals, folder: Path
) -> None:
    """Send a signal to the command and require that nothing of it is left, and no traceback."""
    assert tritons(folder / "triton.log")
    process.send_signal(number)
    assert process.wait(120) == 0
    assert "Traceback" not in (folder / "stderr").read_text()
    wait_until_gone(folder / "triton.log")


def running(parent: int, words: str) -> int:
    """The process below a parent whose command line matches, without what it is about to start."""
    found = {
        process for process in processes_below(parent) if re.search(words, command_line(process))
    }
    (first,) = {one for one in found if not (read := read_process(one)) or read.parent not in found}
    return first


def command_line(process: int) -> str:
    """The words of a process's command line, none if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    return ""


def wait_for_another(parent: int, words: str, killed: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(ValueError):
            if running(parent, words) != killed:
                return
        assert time.monotonic() < deadline, f"nothing like {words} was started again"
        time.sleep(0.05)


def printed(process: subprocess.Popen[str], name: str) -> str:
    """The address that the command prints next under a name."""
    assert process.stdout is not None
    return next(line.split()[1] for line in process.stdout if line.startswith(name))
