"""`make export`, killed at any moment, leaves the served version and no partial artifact."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import Manifest, read_manifest
from cpcsam.artifacts.versions import resolve_version
from cpcsam.model.base_checkpoint import load_base, save_base
from cpcsam.model.build_sam import ENCODERS
from cpcsam.model.capl import FULL_CAPL, CaPL
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.run_checkpoint import save_run
from cpcsam.model.sam import CpcSam
from export.repository import main
from tests.support.model_factory import fill_with_noise, shallow_encoder, windowed_cpcsam
from tests.support.paths import ROOT
from tests.support.processes.export import Change, FaultPoint, export_commands, run_export

pytestmark = pytest.mark.slow

IMAGES = f"IMAGES={ROOT / 'docs/images/nuclei.png'}"
KINDS = ("merged", "onnx")
REPOSITORY = "export.repository"
FAULT_POINTS = {
    "merged model begun": FaultPoint("os.mkdir", "build/.merged.*"),
    "merged model before its manifest": FaultPoint("os.rename", "build/.merged.*/manifest.json"),
    "old merged model being removed": FaultPoint("os.remove", "build/.merged.*/model.safetensors"),
    "graph being written": FaultPoint("open", "build/.onnx.*/mask_decoder.onnx"),
    "graphs before their manifest": FaultPoint("os.rename", "build/.onnx.*/manifest.json"),
    "old graphs being removed": FaultPoint("os.remove", "build/.onnx.*/image_encoder.onnx"),
    "version begun": FaultPoint("os.mkdir", "build/repository/.2.*"),
    "graph being copied": FaultPoint("shutil.copyfile", "build/repository/.2.*/2/model.onnx"),
    "version before its name": FaultPoint("os.rename", "build/repository/2"),
    "link being made": FaultPoint("os.symlink", "build/repository/.current"),
    "link being switched": FaultPoint("os.rename", "build/repository/current"),
}
"""In the order in which an export passes them."""
KILLED = FAULT_POINTS.keys() - {"graphs before their manifest"}
"""Fault points at which an export is killed; both artifacts get their manifests by one function."""


def run_of(folder: Path, seed: int) -> Path:
    base = folder / "base"
    if not base.exists():
        save_base(CpcSam(windowed_cpcsam(model_size="vit_t").sam), base)
    model = load_base(base)
    inject_lora(model, LoraConfig())
    model.capl = CaPL(FULL_CAPL)
    fill_with_noise(model, seed=seed, scale=0.05)
    save_run(model, folder / f"run{seed}", base=base, lora=LoraConfig())
    return folder / f"run{seed}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `first`, where the first of two runs was exported, and its second run."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "first").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "vit_t", shallow_encoder("vit_t"))
        first, _ = run_of(folder, 1), run_of(folder, 2)
    assert run_export(folder / "first", export_commands(first, IMAGES)) == 0
    return folder


@pytest.fixture
def work(runs: Path, tmp_path: Path) -> Path:
    """A copy of the first export, in which the second run is exported."""
    return shutil.copytree(runs / "first", tmp_path / "work", symlinks=True, copy_function=os.link)


def test_make_export_at_every_change_of_a_name_shows_only_whole_artifacts(
    runs: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that is killed leaves the files that others see at that moment."""
    commands = export_commands(runs / "run2", IMAGES)
    assert [module for module, *_ in commands] == ["export.merge", "export.to_onnx", REPOSITORY]
    old = {kind: manifest_of(work, kind) for kind in KINDS}
    served = work / "build/repository"
    replaced: list[int] = []
    changes: list[Change] = []
    verified = None

    def require_whole_artifacts(change: Change) -> None:
        nonlocal verified
        changes.append(change)
        # Files with the same inodes and times need not be hashed again.
        if (visible := visible_files(work / "build")) == verified:
            return
        assert main(["verify", str(served)]) == 0, (change, capsys.readouterr().err)
        assert resolve_version(served).name == "1"
        replaced.append(sum(manifest_of(work, kind) != old[kind] for kind in KINDS))
        verified = visible

    assert run_export(work, commands, before_change=require_whole_artifacts) == 0
    for name, point in FAULT_POINTS.items():
        assert any(map(point.matches, changes)), name
    assert set(replaced) == {0, 1, 2}, "seen during each of the three commands"
    assert main(["verify", str(served)]) == 0
    assert resolve_version(served).name == "2"
    assert names(work / "build") == ["merged", "onnx", "repository"]
    assert names(served) == [".lock", "1", "2", "current"]


def test_make_export_killed_at_fault_points_leaves_what_was_served_and_resumes(
    runs: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = export_commands(runs / "run2", IMAGES)
    old = {kind: manifest_of(work, kind) for kind in KINDS}
    served = work / "build/repository"
    reached = set()
    for name, point in FAULT_POINTS.items():
        if name not in KILLED:
            continue
        assert run_export(work, commands, kill_at=point) == -signal.SIGKILL, name
        assert main(["verify", str(served)]) == 0, (name, capsys.readouterr().err)
        assert resolve_version(served).name == "1"
        reached.add(sum(manifest_of(work, kind) != old[kind] for kind in KINDS))
    assert reached == {0, 1, 2}, "killed in each of the three commands"
    assert run_export(work, commands) == 0
    assert main(["verify", str(served)]) == 0
    assert resolve_version(served).name == "2"
    assert names(work / "build") == ["merged", "onnx", "repository"]
    assert names(served) == [".lock", "1", "2", "current"]


def visible_files(build: Path) -> dict[Path, tuple[int, int, int]]:
    """Inode, size and modification time of every file outside hidden folders."""
    return {
        file: (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for file in sorted(build.rglob("*"))
        if not any(part.startswith(".") for part in file.relative_to(build).parts)
        and (stat := file.lstat())
    }


def manifest_of(folder: Path, kind: str) -> Manifest:
    return read_manifest(folder / "build" / kind, kind)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
