"""A repository survives a kill before any change of a name in the file system."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cpcsam.artifacts.versions import current_version, resolve_version
from export.repository import main
from export.triton_repository.publishing import build_repository
from tests.support.version_store import read_graph, write_graphs, write_two_versions

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
