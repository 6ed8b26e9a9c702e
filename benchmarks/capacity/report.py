"""Tables and plots of measured service times and of simulations."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.capacity.rounds import Measured
from benchmarks.capacity.service_times import ServiceTimes
from benchmarks.capacity.validate import Figures
from benchmarks.serving.report import Check
from reporting.run_report import RunReport, Table
from reporting.tables import Cell

__all__ = ["curves_plot", "simulations_report", "validation_report"]

NOTE: Final = (
    "Loads of the real service on one machine, clients included, and a simulation of the same "
    "requests from service times that were measured alone in the same rounds. Half of the requests "
    "bring an image, half are follow-ups. The capacity of the machine's cores is taken from the "
    "throughput of 4 and of 16 clients, so these two figures are no predictions; all others are."
)


def validation_report(
    measured: Measured,
    times: ServiceTimes,
    figures: Mapping[str, Mapping[str, Figures]],
    checks: Sequence[Check],
    notes: str,
) -> RunReport:
    """Make the report of a comparison.

    Args:
        measured: all rounds.
        times: of all rounds together.
        figures: as `compare` returns them.
        checks: of them.
        notes: on the machine, below the checks.
    """
    rows: list[Sequence[object]] = []
    for load, pair in figures.items():
        for title, key, decimals in (
            ("answers a second", "answers_a_second", 2),
            ("p50, ms", "p50_s", 0),
            ("p95, ms", "p95_s", 0),
            ("p99, ms", "p99_s", 0),
        ):
            factor = 1e3 if key.endswith("_s") else 1.0
            found, simulated = (factor * pair[name][key] for name in ("measured", "simulated"))
            error = Cell(100 * (simulated / found - 1), decimals=1)
            cells = [Cell(value, decimals=decimals) for value in (found, simulated)]
            rows.append([f"{load}: {title}", *cells, error])
    compared = Table("Loads", ["figure", "measured", "simulated", "error, %"], rows)
    verdicts = Table(
        "Bounds", ["figure", "found", "must be", "holds"], [check.row() for check in checks], notes
    )
    return RunReport(
        "capacity",
        "Capacity: the simulation against the service",
        NOTE,
        [compared, verdicts, *_times_tables(measured, times)],
    )


def _times_tables(measured: Measured, times: ServiceTimes) -> list[Table]:
    kinds = ("new", "follow_up")
    means = [times.mean_s(kind) for kind in kinds]
    alone = Table(
        "Alone",
        ["step", "new image, ms", "follow-up, ms", "cores"],
        [
            [name, *(_ms(mean[name]) for mean in means), Cell(stage.cores, decimals=2)]
            for name, stage in times.stages.items()
        ],
    )
    prompts: list[Sequence[object]] = []
    for count in sorted(set(measured.prompts)):
        found = [
            [
                sum(row.values())
                for one in measured.rounds
                for row, number in zip(getattr(one, kind), measured.prompts, strict=True)
                if number == count
            ]
            for kind in kinds
        ]
        prompts.append([count, *(_ms(float(np.median(seconds))) for seconds in found)])
    by_prompts = Table(
        "Alone, by number of prompts (medians)",
        ["prompts", "new image, ms", "follow-up, ms"],
        prompts,
    )
    batches = Table(
        "A batch under all loads, by its size",
        ["step and size", "ms"],
        [
            [f"{name}, {size}", _ms(seconds)]
            for name, sizes in measured.batches.items()
            for size, seconds in sorted(sizes.items())
        ],
    )
    return [alone, by_prompts, batches]


def simulations_report(rows: Sequence[Mapping[str, float]], source: str) -> RunReport:
    """Make the report of simulations, a row each.

    Args:
        rows: figures by name, the same names in each.
        source: of the service times.
    """
    first, *heads = rows[0]
    cells = [
        [f"{row[first]:g}", *(Cell(row[head], decimals=_decimals(row[head])) for head in heads)]
        for row in rows
    ]
    note = f"Simulated, not measured. Service times: {source}."
    return RunReport("simulations", "Simulated capacity", note, [Table("", [first, *heads], cells)])


def curves_plot(
    curves: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str
) -> bytes:
    """Plot curves, as PNG.

    Args:
        curves: points by name.
        xlabel: title of the abscissa.
        ylabel: title of the ordinate.
    """
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    return png.getvalue()


def _ms(seconds: float) -> Cell:
    return Cell(1e3 * seconds, decimals=1)


def _decimals(value: float) -> int:
    return 0 if float(value).is_integer() else 3 if abs(value) < 10 else 1
