"""Training state: progress counters, and atomic checkpoints, files of a run."""

from __future__ import annotations

import io
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ArtifactError, ConfigError, CpcSamError

__all__ = ["CURVE", "Counters", "TrainState", "clear_run", "remove_leftovers"]

CURVE: Final = "learning_curve.png"
"""File of a run with its validations."""


@dataclass(kw_only=True)
class Counters:
    """Progress of a run, as a `Trainer` counts it.

    Attributes:
        step: optimiser steps done.
        elapsed_s: seconds spent so far, in all sessions, by the trainer's clock.
    """

    step: int = 0
    elapsed_s: float = 0.0


@dataclass(kw_only=True)
class TrainState(Counters, ABC):
    """Everything that a resumed run needs: weights, optimisers and counters.

    Attributes:
        start_over: how a user begins a run of this kind anew.
    """

    start_over: ClassVar[str] = "start over with overwrite=true"

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain data by name."""

    @abstractmethod
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Copy in what `state_dict` returned."""

    def save(self, path: Path, record: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically, with the state of torch's random generator.

        Args:
            path: the file.
            record: plain data that identifies the run; `restore` compares it.
        """
        buffer = io.BytesIO()
        saved = {"config": dict(record), "rng": torch.get_rng_state(), **self.state_dict()}
        torch.save(saved, buffer)
        write_atomic(path, buffer.getvalue())

    def restore(self, path: Path, record: Mapping[str, Any]) -> None:
        """Load a checkpoint that `save` wrote.

        Raises:
            ArtifactError: the file is unreadable or of another model.
            ConfigError: the run was begun with another configuration.
        """
        try:
            saved = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged pickle can raise anything
            raise _unreadable(path, error) from error
        try:
            # First, as tensors of another model's shapes would be reported as a damaged file.
            _require_same(saved["config"], record, self.start_over)
            self.load_state_dict(saved)
            torch.set_rng_state(saved["rng"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CpcSamError:
    return ArtifactError.of(
        str(path),
        got=f"an unreadable file ({type(error).__name__}: {error})",
        expected="the state of a run of this configuration",
        fix="start over with overwrite=true, or in another folder",
    )


def _require_same(saved: Any, record: Any, start_over: str, key: str = "") -> None:
    """Name the first key at which a run's configuration differs from the original."""
    if isinstance(saved, Mapping) and isinstance(record, Mapping):
        for name in sorted({*saved, *record}):
            inner = f"{key}.{name}" if key else name
            _require_same(saved.get(name), record.get(name), start_over, inner)
    elif saved != record:
        raise ConfigError.of(
            key,
            got=record,
            expected=f"{saved}, which the run was begun with",
            fix=f"restore it, or {start_over}",
        )


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a killed process; put back a `best` that was being replaced."""
    best = folder / "best"
    for aside in folder.glob(".best.old.*/best"):
        if not best.exists():
            aside.rename(best)
    for path in [path for name in ("best", "last.pt", CURVE) for path in folder.glob(f".{name}.*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def clear_run(folder: Path) -> None:
    """Remove the files of an earlier run of this name, and nothing else."""
    for name in ("last.pt", CURVE):
        (folder / name).unlink(missing_ok=True)
    for name in ("best", "tensorboard"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
