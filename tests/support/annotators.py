"""Environments of annotation tools, which tests run as programs of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.annotators import environment_of, is_installed, lock_files

__all__ = ["annotator"]


def annotator(name: str) -> Path:
    """Return the environment of a tool, such as `.tools/label-studio`, or skip the test.

    Args:
        name: of its lock file in tests/integration/annotators.
    """
    environment = environment_of(name)
    if not is_installed(environment, lock_files()[name]):
        pytest.skip(f"{name} is not installed in {environment}; run `make annotators`")
    return environment
