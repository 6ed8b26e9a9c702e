"""`make export`, killed at any moment, leaves what was served and no partial version."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import Manifest, read_manifest
from cpcsam.artifacts.versions import resolve_version
from cpcsam.model.base_checkpoint import load_base, save_base
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.run_checkpoint import save_run
from export.repository import main
from tests.support.export_processes import export_and_kill, export_commands
from tests.support.model_factory import fill_with_noise, noisy_sam
from tests.support.paths import ROOT

IMAGES = f"IMAGES={ROOT / 'docs/images/nuclei.png'}"
KINDS = ("merged", "onnx")
REPOSITORY = "export.repository"
EVERY = int(os.environ.get("CPCSAM_KILL_EVERY", "9"))
"""Of about 60 changes; test_versions kills publishing alone before each."""


def run_of(folder: Path, seed: int) -> Path:
    base = folder / "base"
    if not base.exists():
        save_base(noisy_sam(), base)
    model = load_base(base)
    inject_lora(model, LoraConfig())
    model.capl = CaPL(CaplConfig())
    fill_with_noise(model, seed=seed, scale=0.05)
    save_run(model, folder / f"run{seed}", base=base, lora=LoraConfig())
    return folder / f"run{seed}"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder in which the first run was exported."""
    folder = tmp_path / "before"
    folder.mkdir()
    assert export_and_kill(folder, export_commands(run_of(tmp_path, 1), IMAGES), 0) == 0
    return folder


def test_make_export_killed_at_any_change_leaves_what_was_served(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = export_commands(run_of(tmp_path, 2), IMAGES)
    assert [module for module, *_ in commands] == ["export.merge", "export.to_onnx", REPOSITORY]
    old = {kind: manifest_of(before, kind) for kind in KINDS}
    reached = set()
    for change in itertools.count(1, EVERY):
        work = tmp_path / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(before, work, symlinks=True, copy_function=os.link)
        code = export_and_kill(work, commands, change)
        served = work / "build/repository"
        assert main(["verify", str(served)]) == 0, capsys.readouterr().err
        new = {kind for kind in KINDS if manifest_of(work, kind) != old[kind]}
        assert resolve_version(served).name == ("2" if code == 0 else "1")
        if code == 0:
            break
        assert code == -signal.SIGKILL
        reached.add(len(new))
    assert reached == {0, 1, 2}, "killed in each of the three commands"
    assert names(work / "build") == ["merged", "onnx", "repository"]
    assert names(served) == [".lock", "1", "2", "current"]


def test_after_a_kill_make_export_goes_on_and_tidies_up(before: Path, tmp_path: Path) -> None:
    commands = export_commands(run_of(tmp_path, 2), IMAGES)
    for change in (4, 8, 28):
        assert export_and_kill(before, commands, change) == -signal.SIGKILL
        assert resolve_version(before / "build/repository").name == "1"
    assert export_and_kill(before, commands, 0) == 0
    assert resolve_version(before / "build/repository").name == "2"
    assert names(before / "build") == ["merged", "onnx", "repository"]
    assert names(before / "build/repository") == [".lock", "1", "2", "current"]


def manifest_of(folder: Path, kind: str) -> Manifest:
    return read_manifest(folder / "build" / kind, kind)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
