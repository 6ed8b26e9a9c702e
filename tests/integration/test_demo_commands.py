"""The demo's stages, each a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cpcsam.errors import ServingError
from demo.commands import DemoError, run_stage, serve


def test_failed_stage_is_named() -> None:
    with pytest.raises(DemoError, match="Fail: got exit status"):
        run_stage("Fail", "no_such_module")


def test_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServingError, match=r"absent"),
        serve(tmp_path / "absent", tmp_path / "serve.log"),
    ):
        pass


def test_interrupt_stops_the_running_stage(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a stage leaves no process behind."""
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(100)\n"
    )
    script = textwrap.dedent(
        """
        from demo.commands import run_stage
        run_stage("Sleep", "sleeper")
        """
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{tmp_path}"}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        pid_file = tmp_path / "pid"
        deadline = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(120)
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)
    finally:
        process.kill()
        process.wait()
