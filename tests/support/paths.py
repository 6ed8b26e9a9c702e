"""Places in the checkout that tests read from."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["ROOT"]

ROOT = Path(__file__).resolve().parents[2]
"""The root of the checkout."""


def shared_folder(
    factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]
) -> Path:
    """Return the session's folder of a name, filled by the first worker that needs it.

    Args:
        factory: pytest's, whose base folder a worker of pytest-xdist shares with the others.
        name: the folder's.
        fill: is called with an empty folder, at most once a session unless it fails.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            staging = Path(tempfile.mkdtemp(dir=root))
            fill(staging)
            staging.rename(folder)
    return folder
