"""Tables and plots of `benchmarks.calibration` from the figures of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from scipy import stats

from benchmarks.calibration.arms import ABLATIONS, BOTH, CORE
from cpcsam.artifacts.manifest import write_atomic

__all__ = ["paired_interval", "write_report"]

MAIN = "1.0"
REFERENCES = ("single", "groups")
Runs = dict[str, dict[int, dict[str, Any]]]


def paired_interval(differences: Sequence[float]) -> list[float]:
    """Mean and 95 % interval (Student's t) of paired differences; of one alone the mean."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return [mean]
    half = float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))
    return [mean, mean - half, mean + half]


def write_report(folder: Path) -> str:
    """Write report.json, report.md and the plots into `folder`; return the Markdown."""
    plt.switch_backend("Agg")
    context = json.loads((folder / "context.json").read_text())
    settings = sorted(path.name for path in folder.iterdir() if path.is_dir())
    runs = {name: _read(folder / name) for name in settings}
    core = {name: found for name, found in runs.items() if name != "ablations"}
    summary = {name: _summary(found) for name, found in core.items()}
    lines = [
        f"Base `{context['base_sha256'][:12]}`, {context['minutes']} CPU minutes of training a run "
        f"on {context['machine']}. Dice (%) of target classes with careless prompts, mean ± "
        "standard deviation over seeds; differences are paired by seed, with 95 % intervals. The "
        f"base itself scores {100 * context['target'][MAIN]:.1f} on the confounded scenes.",
    ]
    for name, rows in summary.items():
        lines += ["", f"### {name}", "", *_table(rows)]
    ablations = runs.get("ablations", {})
    default = runs.get("standard", {}).get(BOTH.name, {}).get(0)
    if ablations:
        lines += [
            "",
            "### Ablations (standard, one seed)",
            "",
            *_ablation_table(ablations, default),
        ]
    markdown = "\n".join(lines) + "\n"
    report = {"context": context, "summary": summary, "ablations": ablations}
    write_atomic(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    write_atomic(folder / "report.md", markdown.encode())
    for name, found in core.items():
        _plot_noise(found, folder / f"noise-{name}.png", name)
        _plot_curve(found, folder / f"epochs-{name}.png", name)
    return markdown


def _read(folder: Path) -> Runs:
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        figures = json.loads(path.read_text())
        runs.setdefault(figures["arm"], {})[figures["seed"]] = figures
    return runs


def _scores(run: Mapping[int, dict[str, Any]], level: str = MAIN) -> dict[int, float]:
    return {seed: 100 * figures["target"][level] for seed, figures in run.items()}


def _summary(runs: Runs) -> list[dict[str, Any]]:
    rows = []
    for arm in CORE:
        if arm.name not in runs:
            continue
        scores = _scores(runs[arm.name])
        row: dict[str, Any] = {
            "arm": arm.name,
            "label": arm.label,
            "dice": float(np.mean(list(scores.values()))),
            "std": float(np.std(list(scores.values()), ddof=1)) if len(scores) > 1 else None,
            "seeds": len(scores),
            "parameters": next(iter(runs[arm.name].values()))["parameters"],
            "steps": float(np.mean([run["steps"] for run in runs[arm.name].values()])),
            "base": 100 * float(np.mean([r["base"][MAIN] for r in runs[arm.name].values()])),
        }
        for reference in REFERENCES:
            others = _scores(runs.get(reference, {}))
            shared = sorted(scores.keys() & others.keys())
            if reference != arm.name and shared:
                row[f"over_{reference}"] = paired_interval(
                    [scores[seed] - others[seed] for seed in shared]
                )
        rows.append(row)
    return rows


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| arm | target Dice | over one accurate prompt | over the same K groups | base Dice "
        "| parameters | steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gains = [_interval(row.get(f"over_{reference}")) for reference in REFERENCES]
        spread = "" if row["std"] is None else f" ± {row['std']:.1f}"
        lines.append(
            f"| {row['label']} | {row['dice']:.1f}{spread} | {gains[0]} | {gains[1]} | "
            f"{row['base']:.1f} | {row['parameters'] / 1e3:.0f} k | {row['steps']:.0f} |"
        )
    return lines


def _interval(interval: Sequence[float] | None) -> str:
    if interval is None:
        return "–"
    if len(interval) == 1:
        return f"{interval[0]:+.1f} (one seed)"
    mean, low, high = interval
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _ablation_table(runs: Runs, default: dict[str, Any] | None) -> list[str]:
    """One row an arm; those that train as the default arm have its figures."""
    lines = ["| varied | target Dice | base Dice | steps |", "|---|---|---|---|"]
    for arm in ABLATIONS:
        same = {0: default} if default and arm.trains_as(BOTH) else {}
        for run in runs.get(arm.name, same).values():
            lines.append(
                f"| {arm.label} | {100 * run['target'][MAIN]:.1f} | {100 * run['base'][MAIN]:.1f} "
                f"| {run['steps']} |"
            )
    return lines


def _plot_noise(runs: Runs, path: Path, title: str) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for arm in CORE:
        if arm.name in runs:
            levels = sorted(next(iter(runs[arm.name].values()))["target"], key=float)
            values = [list(_scores(runs[arm.name], level).values()) for level in levels]
            means = [float(np.mean(value)) for value in values]
            spread = [float(np.std(value)) for value in values]
            places = [float(level) for level in levels]
            axes.errorbar(places, means, spread, marker="o", capsize=3, label=arm.label)
    axes.set(xlabel="strength of prompt noise", ylabel="Dice on target classes (%)", title=title)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_curve(runs: Runs, path: Path, title: str) -> None:
    curves = {
        arm: runs[arm.name][0]["curve"]
        for arm in CORE
        if runs.get(arm.name, {}).get(0, {}).get("curve")
    }
    if not curves:
        return
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for index, (arm, points) in enumerate(curves.items()):
        progress = [100 * point["progress"] for point in points]
        for kind, style in (("base", ":"), ("target", "-")):
            values = [100 * point[kind] for point in points]
            label = arm.label if kind == "target" else None
            axes.plot(progress, values, style, color=f"C{index}", marker=".", label=label)
    axes.set(xlabel="share of training (%)", ylabel="Dice (%): target solid, base dotted")
    axes.set_title(title)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
