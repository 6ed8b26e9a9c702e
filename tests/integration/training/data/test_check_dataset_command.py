"""The command that checks a dataset, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def test_command_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "training.data", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    shown = run("check", "--help")
    assert shown.returncode == 0 and "Examples:" in shown.stdout and "oceancoco" in shown.stdout
    unknown = run("check", "kvasirseg", str(tmp_path))
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1 and "write kvasir-seg" in unknown.stderr
