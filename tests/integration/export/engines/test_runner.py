"""The process that runs engines, and what is told of its end."""

from __future__ import annotations

import sys

import pytest

from cpcsam.errors import ExportError
from export.engines.runner import EngineRunner


def test_a_process_that_ends_is_told_with_its_status() -> None:
    with pytest.raises(ExportError, match="got its end, with exit status 3"):
        EngineRunner([sys.executable, "-c", "print('a banner'); exit(3)"], "fp16")
