"""Staging folders of killed and of living processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import is_made_from, publish

LEAVE = """
import os, signal, sys
from pathlib import Path
from cpcsam.artifacts.atomic_dir import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("half")
    if len(sys.argv) > 2:
        print("ready", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(path: Path, content: str) -> None:
    with publish(path, "onnx") as folder:
        (folder / "graph").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "next_step",
    [
        lambda path: write(path, "whole"),
        lambda path: is_made_from(path, "onnx", parents={}),
    ],
    ids=["writing", "looking"],
)
def test_what_a_killed_process_left_is_removed_by_the_next(
    tmp_path: Path, next_step: Callable[[Path], object]
) -> None:
    path = tmp_path / "onnx"
    done = subprocess.run([sys.executable, "-c", LEAVE, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    [left] = names(tmp_path)
    assert left.startswith(".onnx.")
    next_step(path)
    assert names(tmp_path) in ([], ["onnx"])


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "onnx"
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(path), "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"ready\n"
        write(path, "whole")
        [left] = set(names(tmp_path)) - {"onnx"}
        assert (tmp_path / left / "part").read_text() == "half"
        assert other.stdin is not None
        other.stdin.close()
    write(path, "again")
    assert names(tmp_path) == ["onnx"]
