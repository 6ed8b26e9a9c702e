"""Worker process of the engine runner."""

from __future__ import annotations

import sys

import pytest

from cpcsam.errors import ExportError
from export.engines.runner import EngineRunner


def test_engine_runner_exited_process_raises_with_status() -> None:
    with pytest.raises(ExportError, match="got its end, with exit status 3"):
        EngineRunner([sys.executable, "-c", "print('a banner'); exit(3)"], "fp16")
