"""Measurements that a machine may refuse: a refusal becomes a record, not an exception."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from cpcsam.errors import CpcSamError

__all__ = ["GIB", "attempt", "reason_of"]

GIB: Final = 2**30
MAX_REASON: Final = 300

Record = dict[str, Any]


def attempt(record: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> Record:
    """Complete a record by measuring, or by the reason why the machine cannot.

    Args:
        record: what is measured: `case`, and further columns.
        measure: returns the figures.

    Returns:
        The record with the figures, or with `skipped` after an error of torch or of this project:
        memory has run out, no kernel takes these shapes, a compiler is missing, a loss overflows.
    """
    try:
        return {**record, **measure()}
    except (RuntimeError, CpcSamError) as error:
        reason = reason_of(error)
    # After the handler, as its traceback keeps the tensors of the failed call.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {**record, "skipped": reason}


def reason_of(error: Exception) -> str:
    """Return an error as one line of at most 300 characters."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON]
