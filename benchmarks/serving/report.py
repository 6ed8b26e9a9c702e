"""Report of `benchmarks.serving`: checks against bounds, figures of scenarios, latency plot."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import pyplot as plt

import cpcsam
from cpcsam.artifacts.manifest import write_atomic
from reporting.run_report import RunReport, Table

__all__ = ["Check", "at_least", "at_most", "machine", "write_report", "write_verdict"]

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


def write_report(
    folder: Path, name: str = "serving", title: str = "The service under load"
) -> RunReport:
    """Make the report of the scenarios' files in a folder; write latencies.png into it.

    Args:
        folder: of the files, as `write_verdict` leaves them.
        name: of the report.
        title: of its page.
    """
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    plot = _latencies_plot(results)
    if plot is not None:
        write_atomic(folder / "latencies.png", plot)
    return RunReport(
        name,
        title,
        "",
        [_table(scenario, result) for scenario, result in results.items()],
        {} if plot is None else {"latencies": plot},
    )


def _table(name: str, result: Mapping[str, Any]) -> Table:
    machine = result["machine"]
    before, after = machine["load_average"], machine["load_average_after"]
    checks = [
        Check(**{key: value for key, value in check.items() if key != "holds"})
        for check in result["checks"]
    ]
    lines = [
        f"{result['date']}, {machine['cores']} {machine['architecture']} cores; load average "
        f"{before[0]} before, {after[0]} after.",
        "",
        *(f"- {key}: {_text(value)}" for key, value in _brief(result["figures"]).items()),
    ]
    heads = ["figure", "found", "must be", "holds"]
    return Table(name, heads, [check.row() for check in checks], "\n".join(lines))


def _brief(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures without lists of single measurements."""
    return {
        key: _brief(value) if isinstance(value, Mapping) else value
        for key, value in figures.items()
        if not isinstance(value, list) and key != "per_image"
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _latencies_plot(results: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    """Plot the share of each overload's accepted requests answered by a time, as PNG."""
    curves = {
        name: result["figures"]
        for name, result in results.items()
        if result["figures"].get("latencies_s")
    }
    if not curves:
        return None
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, figures in curves.items():
        seconds = np.sort(figures["latencies_s"])
        share = np.arange(1, len(seconds) + 1) / len(seconds)
        (line,) = axes.plot(seconds, share, label=name)
        axes.axvline(2 * figures["queue_limit_s"], color=line.get_color(), linestyle=":")
    axes.set(xlabel="seconds until the answer", ylabel="share of the accepted", ylim=(0, 1))
    axes.legend(loc="lower right")
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    return png.getvalue()
