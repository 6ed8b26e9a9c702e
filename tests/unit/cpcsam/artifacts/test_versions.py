"""Versions of a repository appear whole or not at all, whatever ends the process that writes."""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import Thread

import pytest

from cpcsam.artifacts import versions
from cpcsam.artifacts.manifest import read_manifest
from cpcsam.artifacts.versions import current_version, list_versions, resolve_version, writing
from cpcsam.errors import ArtifactError
from export.repository import main
from export.triton_repository.publishing import build_repository
from tests.support.artifact_factory import read_graph, write_graphs, write_two_versions


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two versions, the second current."""
    return write_two_versions(tmp_path)


def test_verify_names_altered_version_and_dangling_link(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}/1: whole\n{store}/2: whole, current\n"
    (store / "1/decoder/1/mask_decoder.onnx").write_text("altered")
    assert main(["verify", str(store)]) == 2
    told = capsys.readouterr()
    assert told.out == f"{store}/2: whole, current\n"
    assert f"{store}/1/decoder/1/mask_decoder.onnx: got sha256" in told.err
    shutil.rmtree(store / "2")
    assert main(["verify", str(store)]) == 2
    assert "current: got a link to 2, which is gone, expected one of the versions 1" in (
        capsys.readouterr().err
    )


def test_current_version_follows_a_link_that_moves_meanwhile(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = versions.list_versions
    (first, *_, last) = look(store)
    versions.switch_to(store, first)

    def move_and_remove(path: Path) -> dict[int, Path]:
        monkeypatch.setattr(versions, "list_versions", look)
        versions.switch_to(path, last)
        shutil.rmtree(path / str(first))
        return look(path)

    monkeypatch.setattr(versions, "list_versions", move_and_remove)
    assert versions.current_version(store) == last


def test_list_marks_the_current_version(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(store)]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["version", "made", "target", "model", "size", "precision", "graphs"]
    assert first.split()[0] == "1"
    assert second.split()[:2] == ["*", "2"]
    assert second.split()[-1] == read_manifest(store / "2").parents["onnx"][:12]


def test_rollback_to_previous_or_given_version(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_repository(write_graphs(tmp_path / "onnx3", "graph 3"), store)
    for number in (2, 1):
        assert main(["rollback", str(store)]) == 0
        assert current_version(store) == number
        assert read_graph(store / "current") == f"graph {number}"
    assert main(["rollback", str(store)]) == 2
    assert f"{store}: got no version before 1" in capsys.readouterr().err
    assert main(["rollback", str(store), "--to", "3"]) == 0
    assert current_version(store) == 3
    assert main(["rollback", str(store), "--to", "4"]) == 2
    assert "got no version 4, expected one of 1, 2, 3" in capsys.readouterr().err


def test_rollback_to_altered_version_raises(store: Path) -> None:
    (store / "1/decoder/1/mask_decoder.onnx").write_text("altered")
    assert main(["rollback", str(store)]) == 2
    assert current_version(store) == 2


def test_rollback_repairs_a_dangling_link(store: Path) -> None:
    shutil.rmtree(store / "2")
    with pytest.raises(ArtifactError, match="which is gone"):
        resolve_version(store)
    assert main(["rollback", str(store)]) == 0
    assert resolve_version(store) == store / "1"


def test_publish_existing_content_only_switches(store: Path, tmp_path: Path) -> None:
    made = (store / "1/manifest.json").stat().st_mtime_ns
    assert build_repository(tmp_path / "onnx1", store) == store / "1"
    assert current_version(store) == 1
    assert (store / "1/manifest.json").stat().st_mtime_ns == made
    assert [*list_versions(store)] == [1, 2]


def test_publish_does_not_reuse_an_altered_version(store: Path, tmp_path: Path) -> None:
    (store / "2/decoder/2/mask_decoder.onnx").write_text("altered")
    assert build_repository(tmp_path / "onnx2", store) == store / "3"
    assert read_graph(store / "current") == "graph 2"


def test_writing_into_an_artifact_raises(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="got an artifact, expected a folder of versions"):
        build_repository(tmp_path / "onnx1", store / "1")


def test_writing_is_exclusive(store: Path, tmp_path: Path) -> None:
    third = write_graphs(tmp_path / "onnx3", "graph 3")
    with writing(store):
        other = Thread(target=build_repository, args=(third, store))
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert current_version(store) == 2
    other.join(30)
    assert current_version(store) == 3
