"""Shared fixtures: real nuclei, and an export of a random model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.paths import ROOT, shared_folder


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
