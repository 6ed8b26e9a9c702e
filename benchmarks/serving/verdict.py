"""Checks of a scenario: measured figures and the bounds they must keep."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import cpcsam
from cpcsam.artifacts.manifest import write_atomic

__all__ = ["Check", "at_least", "at_most", "machine", "write_verdict"]

SIGNS: Final = {"at most": "≤", "at least": "≥"}


@dataclass(frozen=True)
class Check:
    """A figure and its bound.

    Attributes:
        what: name of the figure, with its unit.
        value: measured.
        relation: `at most` or `at least`.
        bound: that must be kept.
    """

    what: str
    value: float
    relation: str
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; NaN keeps none."""
        if self.relation == "at most":
            return self.value <= self.bound
        return self.value >= self.bound

    def row(self) -> tuple[str, str, str, str]:
        """Cells of a table: figure, value, bound and verdict."""
        verdict = "yes" if self.holds else "**no**"
        bound = f"{SIGNS[self.relation]} {self.bound:.4g}"
        return self.what, f"{self.value:.4g}", bound, verdict


def at_most(what: str, value: float, bound: float) -> Check:
    """A figure that must not be larger."""
    return Check(what, float(value), "at most", float(bound))


def at_least(what: str, value: float, bound: float) -> Check:
    """A figure that must not be smaller."""
    return Check(what, float(value), "at least", float(bound))


def machine() -> dict[str, Any]:
    """Cores, architecture and load average of the machine, other programs included."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }


def write_verdict(
    out: Path,
    scenario: str,
    settings: Mapping[str, Any],
    before: Mapping[str, Any],
    figures: Mapping[str, Any],
    checks: Sequence[Check],
) -> None:
    """Write `SCENARIO.json`.

    Args:
        out: folder of the results.
        scenario: its name.
        settings: chosen options.
        before: `machine()` before the scenario began.
        figures: all that was measured.
        checks: those that must hold.
    """
    document = {
        "scenario": scenario,
        "date": datetime.now(UTC).date().isoformat(),
        "cpcsam": cpcsam.__version__,
        "machine": {**before, "load_average_after": machine()["load_average"]},
        "settings": settings,
        "checks": [{**asdict(check), "holds": check.holds} for check in checks],
        "figures": figures,
    }
    write_atomic(out / f"{scenario}.json", (json.dumps(document, indent=2) + "\n").encode())
