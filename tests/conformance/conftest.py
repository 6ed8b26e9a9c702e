"""One export of a random model a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.onnx_factory import export_noisy_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of kind `onnx`; what it was exported from lies beside it in `merged`."""
    return export_noisy_model(tmp_path_factory.mktemp("export"))
