"""Report of `benchmarks.noc`: tables of clicks and failures, and a plot of IoU over clicks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.noc.jobs import SYSTEMS
from benchmarks.noc.protocol import ANNOTATORS, MAX_CLICKS, TARGETS, clicks_to
from reporting.run_report import RunReport, Table
from reporting.tables import mean_cell

__all__ = ["iou_plot", "report_of"]

Run = Mapping[str, Any]
SHOWN = (1, 3, 5, MAX_CLICKS)
"""Clicks after which tables show the IoU."""


def report_of(runs: Sequence[Run]) -> RunReport:
    """Make the report.

    Args:
        runs: results of jobs, at least one.
    """
    tables = [
        _table(setting, annotator, [run for run in runs if run["setting"] == setting])
        for setting in dict.fromkeys(run["setting"] for run in runs)
        for annotator in ANNOTATORS
    ]
    plots = {"clicks": iou_plot(runs)}
    return RunReport("noc", "Number of clicks to a good mask", _note(runs), tables, plots)


def iou_plot(runs: Sequence[Run]) -> bytes:
    """Plot the mean IoU after each click by setting and annotator, as PNG.

    Args:
        runs: results of jobs.
    """
    plt.switch_backend("Agg")
    settings = list(dict.fromkeys(run["setting"] for run in runs))
    figure, grid = plt.subplots(
        len(settings),
        len(ANNOTATORS),
        figsize=(8, 3.2 * len(settings)),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, setting in zip(grid, settings, strict=True):
        for axes, annotator in zip(row, ANNOTATORS, strict=True):
            for system in SYSTEMS:
                same = _of(runs, system, setting)
                if same:
                    mean = np.mean([_curve(run, annotator) for run in same], axis=0)
                    label = same[0]["label"]
                    axes.plot(range(1, MAX_CLICKS + 1), 100 * mean, marker=".", label=label)
            axes.set_title(f"{setting}, {annotator}")
    figure.supxlabel("clicks")
    figure.supylabel("mean IoU (%)")
    grid[0, 0].legend(fontsize=7, loc="lower right")
    png = io.BytesIO()
    # Matplotlib's version would make equal plots differ in their bytes.
    figure.savefig(png, dpi=120, format="png", metadata={"Software": None})
    plt.close(figure)
    return png.getvalue()


def _of(runs: Sequence[Run], system: str, setting: str) -> list[Run]:
    return [run for run in runs if (run["name"], run["setting"]) == (system, setting)]


def _curve(run: Run, annotator: str) -> list[float]:
    """Mean IoU over entities after each of `MAX_CLICKS`; who has stopped keeps a mask."""
    rows = [[*ious, *[ious[-1]] * (MAX_CLICKS - len(ious))] for ious in run["ious"][annotator]]
    return [float(value) for value in np.mean(rows, axis=0)]


def _table(setting: str, annotator: str, runs: Sequence[Run]) -> Table:
    heads = ["system"]
    heads += [f"{kind}@{round(100 * target)}" for kind in ("NoC", "NoF") for target in TARGETS]
    heads += [f"IoU@{clicks}" for clicks in SHOWN] + ["M parameters", "steps"]
    rows: list[list[object]] = []
    for system in SYSTEMS:
        same = _of(runs, system, setting)
        if not same:
            continue
        needed = {
            target: [[clicks_to(target, one) for one in run["ious"][annotator]] for run in same]
            for target in TARGETS
        }
        curves = [_curve(run, annotator) for run in same]
        rows.append(
            [
                same[0]["label"],
                *(mean_cell([_noc(run) for run in needed[target]], 2) for target in TARGETS),
                *(mean_cell([_nof(run) for run in needed[target]]) for target in TARGETS),
                *(mean_cell([100 * curve[clicks - 1] for curve in curves]) for clicks in SHOWN),
                mean_cell([same[0]["parameters"] / 1e6], 2),
                mean_cell([run["steps"] for run in same], 0),
            ]
        )
    return Table(f"{setting}, {annotator} clicks", heads, rows)


def _noc(needed: Sequence[int | None]) -> float:
    return float(np.mean([MAX_CLICKS if clicks is None else clicks for clicks in needed]))


def _nof(needed: Sequence[int | None]) -> float:
    return 100 * float(np.mean([clicks is None for clicks in needed]))


def _note(runs: Sequence[Run]) -> str:
    first = runs[0]
    budget = first["record"]["budget"]
    trained = (
        f"{budget['minutes']} CPU minutes"
        if budget["minutes"] is not None
        else f"{budget['steps']} steps"
    )
    counts = ", ".join(
        f"{run['entities']} of {run['setting']}"
        for run in {run["setting"]: run for run in runs}.values()
    )
    seeds = len({run["seed"] for run in runs})
    return (
        f"NoC@T is the mean number of clicks to T % IoU, {MAX_CLICKS} for an entity that did not "
        f"reach it; NoF@T is the share of those (%). IoU@N is the mean IoU after N clicks (%), of "
        f"annotators who stop at {round(100 * TARGETS[-1])} %. Entities: {counts}. Training of "
        f"{trained} a run, mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}; the "
        f"base is not trained. {first['machine']}."
    )
