"""The line that tells what a repository serves, and the export that makes one where none is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import publish
from cpcsam.artifacts.versions import switch_to
from cpcsam.errors import ArtifactError
from cpcsam.model.base_checkpoint import base_digest
from cpcsam.scale import SCALE, Scale
from export import base
from serving.supervision.model_summary import summary_of
from tests.support.paths import ROOT


def repository(folder: Path, trained_model: str, scale: Scale | None = None) -> Path:
    """A store whose one version holds nothing but its manifest."""
    config = {
        "trained_model": trained_model,
        "model_size": "vit_t",
        "image_size": 256,
        "precision": "fp32",
        **({} if scale is None else {SCALE: scale.record()}),
    }
    with publish(folder / "1", "repository", parents={}, config=config, metrics={}) as staging:
        (staging / "file").write_text("x")
    switch_to(folder, 1)
    return folder


def test_summary_names_a_shipped_base_by_its_folder(tmp_path: Path) -> None:
    store = repository(tmp_path / "store", base_digest(ROOT / "weights/vit_t"))
    line = summary_of(store, ROOT / "weights")
    assert line.startswith("base vit_t: vit_t at 256 px, whole images, fp32, version ")
    assert line.endswith("store/1")


def test_summary_names_a_run_by_its_digest_and_its_window(tmp_path: Path) -> None:
    store = repository(tmp_path / "store", "0123456789ab", Scale(window=128))
    line = summary_of(store, ROOT / "weights")
    assert line.startswith("run 01234567: vit_t at 256 px, windows of 128 px, fp32, ")


def test_summary_of_no_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        summary_of(tmp_path)


def test_export_of_the_base_keeps_a_repository_that_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = repository(tmp_path / "store", "0123456789ab")
    steps = tmp_path / "steps"
    words = ["--out", str(store), "--steps", str(steps), "--if-missing"]
    assert base.main(words) == 0
    assert capsys.readouterr().out == f"{store}: exists\n"
    assert not steps.exists()
