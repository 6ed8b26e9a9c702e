"""A repository survives a kill before any change of a name in the file system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import is_made_from, publish
from cpcsam.artifacts.versions import current_version, resolve_version
from export.repository import main
from export.triton_repository.publishing import build_repository
from tests.support.artifact_factory import read_graph, write_graphs, write_two_versions

CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.copyfile"}
"""Audit events of Python before a name in the file system changes or a file is copied."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two versions, the second current."""
    return write_two_versions(tmp_path)


def killed_before_change(count: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before its count-th change; False if it ended first."""
    child = os.fork()
    if child == 0:
        left = count

        def watch(event: str, _: object) -> None:
            nonlocal left
            if event in CHANGES:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_change_leaves_whole_versions_one_of_them_current(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = write_graphs(tmp_path / "onnx3", "graph 3")
    served = set()
    for count in range(1, 500):
        trial = tmp_path / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(store, trial, symlinks=True, copy_function=os.link)
        killed = killed_before_change(count, partial(build_repository, third, trial))
        assert main(["verify", str(trial)]) == 0, capsys.readouterr().err
        current = resolve_version(trial)
        assert read_graph(current) == f"graph {current.name}"
        served.add((killed, current.name))
        if not killed:
            break
        if count % 4:
            continue
        assert build_repository(third, trial) == trial / "3"
        assert current_version(trial) == 3
        assert {path.name for path in trial.iterdir()} == {".lock", "1", "2", "3", "current"}
    assert served == {(True, "2"), (False, "3")}
    assert count > 20


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
