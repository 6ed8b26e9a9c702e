"""Shared fixtures: real nuclei, an export of a random model, and a stand-in for a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT, shared_folder

STAND_IN = ROOT / "tests/support/stand_in_gpu"


@pytest.fixture(scope="session")
def bbbc038() -> Path:
    """Folder of real nuclei: $BBBC038, or shared/data next to the checkout."""
    found = Path(os.environ.get("BBBC038", ROOT.parent / "shared/data/bbbc038v1"))
    if not found.is_dir():
        pytest.skip(f"no BBBC038v1 at {found}; set BBBC038 to its folder")
    return found


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of kind `onnx`; what it was exported from lies beside it in `merged`."""
    from tests.support.artifact_factory import (
        export_noisy_model,  # torch, which few tests here need
    )

    return shared_folder(tmp_path_factory, "exported", export_noisy_model) / "onnx"


@pytest.fixture(scope="session")
def shipped_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `merged` and `onnx` of the shipped base, which served tests share."""
    from tests.support.artifact_factory import export_shipped_base

    return shared_folder(tmp_path_factory, "shipped", export_shipped_base)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a stand-in CUDA driver that allocates host memory."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler; on Debian: apt-get install gcc")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(STAND_IN / "libcuda.c")], check=True
    )
    return folder


@pytest.fixture
def gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let child processes find the stand-ins."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
