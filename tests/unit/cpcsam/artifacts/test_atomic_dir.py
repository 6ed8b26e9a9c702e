"""Folders take their names in one step, and what a killed process left is removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from cpcsam.artifacts import atomic_dir as staging
from cpcsam.artifacts.manifest import is_made_from, publish, read_manifest

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


def test_names_are_exchanged(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    if not staging.exchange(tmp_path / "first", tmp_path / "second"):
        pytest.skip(f"the file system of {tmp_path} exchanges no names")
    assert (tmp_path / "first/content").read_text() == "second"
    assert (tmp_path / "second/content").read_text() == "first"
    with pytest.raises(FileNotFoundError) as caught:
        staging.exchange(tmp_path / "first", tmp_path / "none")
    assert caught.value.errno == errno.ENOENT


def test_an_artifact_that_is_replaced_is_there_at_every_moment(tmp_path: Path) -> None:
    """A reader that looks all the time finds one whole artifact or the other."""
    path = tmp_path / "onnx"
    write(path, "0")
    if not staging.exchange(path, path):
        pytest.skip(f"the file system of {tmp_path} exchanges no names")
    missing, looks, done = [], [], Event()

    def look() -> None:
        while not done.is_set():
            try:
                folder = os.open(path, os.O_RDONLY)
            except FileNotFoundError as error:
                missing.append(error)
            else:
                os.close(folder)
                looks.append(1)

    reader = Thread(target=look)
    reader.start()
    for number in range(200):
        write(path, str(number))
    done.set()
    reader.join()
    assert not missing and len(looks) > 200
    assert names(tmp_path) == ["onnx"]


@pytest.mark.parametrize("able", [True, False])
def test_an_older_artifact_is_replaced(
    able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not able:  # an unknown flag, as to file systems that exchange nothing
        monkeypatch.setattr(staging, "RENAME_EXCHANGE", 1 << 20)
    for content in ("old", "new"):
        write(tmp_path / "onnx", content)
        read_manifest(tmp_path / "onnx", "onnx")
    assert (tmp_path / "onnx/graph").read_text() == "new"
    assert names(tmp_path) == ["onnx"]


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


def test_a_failed_body_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "onnx", "old")
    with pytest.raises(KeyboardInterrupt), publish(tmp_path / "onnx", "onnx"):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["onnx"]
    assert (tmp_path / "onnx/graph").read_text() == "old"
