"""Files of a run: `last.pt`, `best` and `tensorboard`, and what a killed process leaves there."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["clear", "remove_leftovers"]


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a killed process; put back a `best` that was being replaced."""
    best = folder / "best"
    for aside in folder.glob(".best.old.*/best"):
        if not best.exists():
            aside.rename(best)
    for path in [*folder.glob(".best.*"), *folder.glob(".last.pt.*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def clear(folder: Path) -> None:
    """Remove the files of an earlier run of this name, and nothing else."""
    (folder / "last.pt").unlink(missing_ok=True)
    for name in ("best", "tensorboard"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
