"""Tables and a plot of what the scenarios found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.serving.verdict import Check
from cpcsam.artifacts.manifest import write_atomic

__all__ = ["write_report"]


def write_report(folder: Path) -> str:
    """Write report.md and latencies.png from the scenarios' files; return the Markdown."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    lines: list[str] = []
    for name, result in found.items():
        lines += [*_section(name, result), ""]
    markdown = "\n".join(lines)
    write_atomic(folder / "report.md", markdown.encode())
    _plot(found, folder / "latencies.png")
    return markdown


def _section(name: str, result: Mapping[str, Any]) -> list[str]:
    machine = result["machine"]
    before, after = machine["load_average"], machine["load_average_after"]
    checks = [
        Check(**{key: value for key, value in check.items() if key != "holds"})
        for check in result["checks"]
    ]
    figures = _brief(result["figures"])
    return [
        f"## {name}",
        "",
        f"{result['date']}, {machine['cores']} {machine['architecture']} cores; load average "
        f"{before[0]} before, {after[0]} after.",
        "",
        "| figure | found | must be | holds |",
        "|---|---|---|---|",
        *(check.line() for check in checks),
        "",
        *(f"- {key}: {_text(value)}" for key, value in figures.items()),
    ]


def _brief(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is listed one by one."""
    return {
        key: _brief(value) if isinstance(value, Mapping) else value
        for key, value in figures.items()
        if not isinstance(value, list) and key != "per_image"
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plot(found: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Share of the accepted requests of each overload that were answered by a time."""
    curves = {
        name: result["figures"]
        for name, result in found.items()
        if result["figures"].get("latencies_s")
    }
    if not curves:
        return
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, figures in curves.items():
        seconds = np.sort(figures["latencies_s"])
        share = np.arange(1, len(seconds) + 1) / len(seconds)
        (line,) = axes.plot(seconds, share, label=name)
        axes.axvline(2 * figures["queue_limit_s"], color=line.get_color(), linestyle=":")
    axes.set(xlabel="seconds until the answer", ylabel="share of the accepted", ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=110)
    plt.close(figure)
