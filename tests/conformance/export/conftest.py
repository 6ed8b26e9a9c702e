"""A stand-in for the GPU's driver, which the tests of engines share."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.engine_plans import STAND_IN


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
