"""Report of `benchmarks.calibration`: tables, and plots of Dice by prompt noise and over time."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.calibration.arms import ABLATIONS, BOTH, CORE, GROUPS
from benchmarks.common.output import write_json
from cpcsam.artifacts.manifest import write_atomic
from reporting.run_report import RunReport, Table
from reporting.tables import Cell, Interval, interval_of, mean_cell, paired_interval

__all__ = ["curve_plot", "noise_plot", "write_report"]

RunsByArm = Mapping[str, Mapping[int, Mapping[str, Any]]]


def noise_plot(runs: RunsByArm, title: str) -> bytes:
    """Plot Dice on target classes by the strength of prompt noise, mean ± deviation, as PNG.

    Args:
        runs: by arm and seed.
        title: of the plot.
    """
    figure, axes = _axes()
    for arm in CORE:
        if arm.name in runs:
            scored = next(iter(runs[arm.name].values()))["target"]
            levels = sorted((level for level in scored if level != ACCURATE), key=float)
            dice = np.array(
                [
                    [100 * run["target"][level] for level in levels]
                    for run in runs[arm.name].values()
                ]
            )
            places = [float(level) for level in levels]
            axes.errorbar(places, dice.mean(0), dice.std(0), marker="o", capsize=3, label=arm.label)
    axes.set(xlabel="strength of prompt noise", ylabel="Dice on target classes (%)", title=title)
    return _png(figure, axes)


def curve_plot(runs: RunsByArm, title: str) -> bytes | None:
    """Plot Dice on base and target classes over the training of seed 0, as PNG.

    Args:
        runs: by arm and seed.
        title: of the plot.

    Returns:
        None if no run has a curve.
    """
    curves = {
        arm: runs[arm.name][0]["curve"]
        for arm in CORE
        if runs.get(arm.name, {}).get(0, {}).get("curve")
    }
    if not curves:
        return None
    figure, axes = _axes()
    for index, (arm, points) in enumerate(curves.items()):
        progress = [100 * point["progress"] for point in points]
        for kind, style in (("base", ":"), ("target", "-")):
            values = [100 * point[kind] for point in points]
            label = arm.label if kind == "target" else None
            axes.plot(progress, values, style, color=f"C{index}", marker=".", label=label)
    axes.set(xlabel="share of training (%)", ylabel="Dice (%): target solid, base dotted")
    axes.set_title(title)
    return _png(figure, axes)


def _axes() -> tuple[Figure, Axes]:
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    return figure, axes


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.legend(fontsize=7)
    png = io.BytesIO()
    # Matplotlib's version would make equal plots differ in their bytes.
    figure.savefig(png, dpi=120, format="png", metadata={"Software": None})
    plt.close(figure)
    return png.getvalue()


MAIN, ACCURATE = "1.0", "accurate"
REFERENCES = ("single", "groups")
Runs = dict[str, dict[int, dict[str, Any]]]


def write_report(folder: Path) -> RunReport:
    """Write report.json and the plots into a folder of results; return the report.

    Args:
        folder: with context.json and a folder of results for each setting; results of another
            context are left out.
    """
    context = json.loads((folder / "context.json").read_text())
    settings = sorted(path.name for path in folder.iterdir() if path.is_dir())
    runs = {name: _read(folder / name, context.get("digest")) for name in settings}
    core = {name: results for name, results in runs.items() if name != "ablations" and results}
    ablations = runs.get("ablations", {})
    summary = {name: _summary(results) for name, results in core.items()}
    write_json(
        folder / "report.json", {"context": context, "summary": summary, "ablations": ablations}
    )
    plots: dict[str, bytes] = {}
    for name, results in core.items():
        pictures = {"noise": noise_plot(results, name), "epochs": curve_plot(results, name)}
        for kind, picture in pictures.items():
            if picture is not None:
                write_atomic(folder / f"{kind}-{name}.png", picture)
                # A report shows at most two plots.
                plots |= {kind: picture} if name == "standard" else {}
    drawn = context.get("scenes") == "vector-art"
    return RunReport(
        "calibration-vector-art" if drawn else "calibration",
        "Calibration on unseen classes with careless prompts",
        _note(context),
        [make(name, rows) for name, rows in summary.items() for make in (_table, _accurate_table)]
        + ([_ablation_table(ablations, core)] if ablations else []),
        plots,
    )


def _note(context: Mapping[str, Any]) -> str:
    budget = f"{context['minutes']} CPU minutes of training a run"
    if context.get("steps") is not None:
        budget = f"Training for the time of {context['steps']} steps of the K groups"
    return (
        f"{budget} on {context['machine']}; base `{context['base_sha256'][:12]}`. Dice (%) of "
        "target classes with careless prompts, mean ± standard deviation over seeds; differences "
        "are paired by seed, with 95 % intervals. The base itself scores "
        f"{100 * context['target'][MAIN]:.1f} on the "
        f"{context.get('scenes', 'confounded')} scenes."
    )


def _read(folder: Path, context: str | None) -> Runs:
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        figures = json.loads(path.read_text())
        if figures.get("context") == context:
            runs.setdefault(figures["arm"], {})[figures["seed"]] = figures
    return runs


def _scores(
    run: Mapping[int, dict[str, Any]], classes: str = "target", prompts: str = MAIN
) -> dict[int, float]:
    """Dice (%) by seed, of the runs that were scored with these prompts."""
    return {
        seed: 100 * figures[classes][prompts]
        for seed, figures in run.items()
        if prompts in figures[classes]
    }


def _summary(runs: Runs) -> list[dict[str, Any]]:
    rows = []
    for arm in CORE:
        if arm.name not in runs:
            continue
        scores = _scores(runs[arm.name])
        dice = mean_cell(list(scores.values()))
        row: dict[str, Any] = {
            "arm": arm.name,
            "label": arm.label,
            "dice": dice.mean,
            "std": dice.std,
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
        row["accurate"] = {
            classes: _accurate(runs[arm.name], runs.get(GROUPS.name, {}), classes)
            for classes in ("target", "base")
        }
        rows.append(row)
    return rows


def _accurate(
    runs: Mapping[int, dict[str, Any]], groups: Mapping[int, dict[str, Any]], classes: str
) -> dict[str, Any]:
    """Average Dice with accurate prompts, and its difference from the K groups'."""
    scores, others = _scores(runs, classes, ACCURATE), _scores(groups, classes, ACCURATE)
    shared = sorted(scores.keys() & others.keys())
    figures: dict[str, Any] = {"dice": list(scores.values())}
    if shared and runs is not groups:
        figures["over"] = paired_interval([scores[seed] - others[seed] for seed in shared])
    return figures


def _accurate_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    heads = ["arm", "target Dice", "over the same K groups", "base Dice", "over the K groups"]
    lines: list[list[object]] = []
    for row in rows:
        cells: list[object] = [row["label"]]
        for classes in ("target", "base"):
            figures = row["accurate"][classes]
            cells += [mean_cell(figures["dice"]) if figures["dice"] else None]
            cells += [_interval(figures.get("over"))]
        lines.append(cells)
    return Table(f"{name}: accurate prompts", heads, lines)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    heads = ["arm", "target Dice", "over one accurate prompt", "over the same K groups"]
    heads += ["base Dice", "parameters (k)", "steps"]
    lines: list[list[object]] = [
        [
            row["label"],
            Cell(row["dice"], row["std"], row["seeds"]),
            *(_interval(row.get(f"over_{reference}")) for reference in REFERENCES),
            Cell(row["base"]),
            Cell(row["parameters"] / 1e3, decimals=0),
            Cell(row["steps"], decimals=0),
        ]
        for row in rows
    ]
    return Table(name, heads, lines)


def _interval(interval: Sequence[float] | None) -> Interval | None:
    return None if interval is None else interval_of(interval)


def _ablation_table(runs: Runs, core: Mapping[str, Runs]) -> Table:
    """One row an arm; those that train as the default arm have its figures."""
    default = core.get("standard", {}).get(BOTH.name, {}).get(0)
    lines: list[list[object]] = []
    for arm in ABLATIONS:
        same = {0: default} if default and arm.trains_as(BOTH) else {}
        for run in runs.get(arm.name, same).values():
            scores = (Cell(100 * run[kind][MAIN]) for kind in ("target", "base"))
            lines.append([arm.label, *scores, run["steps"]])
    heads = ["varied", "target Dice", "base Dice", "steps"]
    return Table("Ablations (standard, one seed)", heads, lines)
