"""Folders take their names in one step, and what a killed process left is removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Event, Thread

import pytest

from cpcsam.artifacts import atomic_dir as staging
from cpcsam.artifacts.manifest import publish, read_manifest


def write(path: Path, content: str) -> None:
    with publish(path, "onnx") as folder:
        (folder / "graph").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_exchange_swaps_two_names(tmp_path: Path) -> None:
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


def test_publish_replacement_is_never_missing(tmp_path: Path) -> None:
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
    for number in range(50):
        write(path, str(number))
    done.set()
    reader.join()
    assert not missing and len(looks) > 50
    assert names(tmp_path) == ["onnx"]


@pytest.mark.parametrize("able", [True, False])
def test_publish_replaces_an_older_artifact(
    able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not able:  # an unknown flag, as to file systems that exchange nothing
        monkeypatch.setattr(staging, "RENAME_EXCHANGE", 1 << 20)
    for content in ("old", "new"):
        write(tmp_path / "onnx", content)
        read_manifest(tmp_path / "onnx", "onnx")
    assert (tmp_path / "onnx/graph").read_text() == "new"
    assert names(tmp_path) == ["onnx"]


def test_publish_failed_body_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "onnx", "old")
    with pytest.raises(KeyboardInterrupt), publish(tmp_path / "onnx", "onnx"):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["onnx"]
    assert (tmp_path / "onnx/graph").read_text() == "old"
