"""Versions of a repository appear whole or not at all, whatever ends the process that writes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.artifacts.versions import current_version, list_versions, resolve_version, writing
from cpcsam.contract import GRAPHS
from cpcsam.errors import ArtifactError
from export.repository import main
from export.triton_repository.publishing import build_repository

CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.copyfile"}
"""Audit events of Python before a name in the file system changes or a file is copied."""


def graphs(path: Path, content: str) -> Path:
    with publish(path, "onnx", config={"model_size": "vit_t", "image_size": 256}) as staging:
        for graph in GRAPHS:
            (staging / f"{graph.name}.onnx").write_text(content)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two versions, the second current."""
    for number in (1, 2):
        build_repository(graphs(tmp_path / f"onnx{number}", f"graph {number}"), tmp_path / "store")
    return tmp_path / "store"


def graph_of(version: Path) -> str:
    [file] = version.glob("mask_decoder/*/model.onnx")
    return file.read_text()


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
    third = graphs(tmp_path / "onnx3", "graph 3")
    served = set()
    for count in range(1, 500):
        trial = tmp_path / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(store, trial, symlinks=True, copy_function=os.link)
        killed = killed_before_change(count, partial(build_repository, third, trial))
        assert main(["verify", str(trial)]) == 0, capsys.readouterr().err
        current = resolve_version(trial)
        assert graph_of(current) == f"graph {current.name}"
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


def test_verify_names_an_altered_version_and_a_link_to_none(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}/1: whole\n{store}/2: whole, current\n"
    (store / "1/mask_decoder/1/model.onnx").write_text("altered")
    assert main(["verify", str(store)]) == 2
    told = capsys.readouterr()
    assert told.out == f"{store}/2: whole, current\n"
    assert f"{store}/1/mask_decoder/1/model.onnx: got sha256" in told.err
    shutil.rmtree(store / "2")
    assert main(["verify", str(store)]) == 2
    assert "current: got a link to 2, which is gone, expected one of the versions 1" in (
        capsys.readouterr().err
    )


def test_list_marks_the_current_version(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(store)]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["version", "made", "target", "model", "size", "precision", "graphs"]
    assert first.split()[0] == "1"
    assert second.split()[:2] == ["*", "2"]
    assert second.split()[-1] == read_manifest(store / "2").parents["onnx"][:12]


def test_rollback_goes_back_step_by_step_or_to_a_version(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_repository(graphs(tmp_path / "onnx3", "graph 3"), store)
    for number in (2, 1):
        assert main(["rollback", str(store)]) == 0
        assert current_version(store) == number
        assert graph_of(store / "current") == f"graph {number}"
    assert main(["rollback", str(store)]) == 2
    assert f"{store}: got no version before 1" in capsys.readouterr().err
    assert main(["rollback", str(store), "--to", "3"]) == 0
    assert current_version(store) == 3
    assert main(["rollback", str(store), "--to", "4"]) == 2
    assert "got no version 4, expected one of 1, 2, 3" in capsys.readouterr().err


def test_rollback_refuses_an_altered_version(store: Path) -> None:
    (store / "1/mask_decoder/1/model.onnx").write_text("altered")
    assert main(["rollback", str(store)]) == 2
    assert current_version(store) == 2


def test_rollback_mends_a_link_to_a_version_that_is_gone(store: Path) -> None:
    shutil.rmtree(store / "2")
    with pytest.raises(ArtifactError, match="which is gone"):
        resolve_version(store)
    assert main(["rollback", str(store)]) == 0
    assert resolve_version(store) == store / "1"


def test_publishing_what_is_there_only_switches_to_it(store: Path, tmp_path: Path) -> None:
    made = (store / "1/manifest.json").stat().st_mtime_ns
    assert build_repository(tmp_path / "onnx1", store) == store / "1"
    assert current_version(store) == 1
    assert (store / "1/manifest.json").stat().st_mtime_ns == made
    assert [*list_versions(store)] == [1, 2]


def test_an_altered_version_is_not_taken_for_the_same(store: Path, tmp_path: Path) -> None:
    (store / "2/mask_decoder/2/model.onnx").write_text("altered")
    assert build_repository(tmp_path / "onnx2", store) == store / "3"
    assert graph_of(store / "current") == "graph 2"


def test_an_artifact_is_no_folder_of_versions(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="got an artifact, expected a folder of versions"):
        build_repository(tmp_path / "onnx1", store / "1")


def test_writers_take_turns(store: Path, tmp_path: Path) -> None:
    third = graphs(tmp_path / "onnx3", "graph 3")
    with writing(store):
        other = Thread(target=build_repository, args=(third, store))
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert current_version(store) == 2
    other.join(30)
    assert current_version(store) == 3
