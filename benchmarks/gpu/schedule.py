"""Division of a time budget among stages, by cap and priority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.gpu.stage import Stage

__all__ = ["LEAST_S", "grant"]

LEAST_S: Final = 10.0
"""Below this a stage would hardly load its libraries."""


def grant(stage: Stage, later: Sequence[Stage], left_s: float) -> float | None:
    """Return the seconds that a stage may take.

    Args:
        stage: about to start.
        later: still to come; the caps of those of higher priority are kept for them.
        left_s: seconds of the budget that are left.

    Returns:
        At most the stage's cap; None if too little is left to start it.
    """
    kept = sum(other.cap_s for other in later if other.priority < stage.priority)
    granted = min(stage.cap_s, left_s - kept)
    return granted if granted >= min(LEAST_S, stage.cap_s) else None
