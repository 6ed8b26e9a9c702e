"""Report of the measured cells: a table for each kind of figure, and two plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.peers.cells import COMPARED, DRIVEN, SECOND, STARTED, read_cell
from benchmarks.peers.figures import figures_of, ratios
from benchmarks.peers.load.workloads import Workload
from benchmarks.peers.measure import Bench
from benchmarks.peers.models import IMAGE_SIZES, PeerModel
from benchmarks.peers.phases import TOTAL
from benchmarks.peers.plan import CAPACITY, OFFICIAL, SYSTEMS, Setting, supports
from benchmarks.peers.plots import load_plot, ratio_plot
from benchmarks.peers.second_load import TOLERANCE
from reporting.run_report import RunReport, Table
from reporting.tables import Cell, mean_cell

__all__ = ["report_of"]

Measured = Sequence[tuple[Setting, PeerModel]]
Results = Mapping[tuple[str, str, str], Sequence[dict[str, Any]]]
"""Results, one a round, by model, system and name of the workload, or what else was measured."""

NOTE: Final = (
    "All systems have the same {cores} cores, images, prompts and weights; {generator}. vit_t is "
    "the shipped base at 256 pixels, vit_b at 1024 has random weights. SamPredictor in process and "
    "LitServe keep the embeddings of known images by their id, as the gateway does. Systems in "
    "process return arrays, the others COCO RLE; they answer one request at a time, and their "
    "times with 8 clients include the wait for each other. Triton alone has no automatic masks. "
    "Rounds run all systems in turn, and ratios are to SamPredictor's in the same round: mean ± "
    "standard deviation over the rounds. CPU time is user and system time of all processes that "
    "serve, memory the peak of the sum of their proportional set sizes; in process it includes "
    "the load generator's.{notes}"
)


def report_of(
    bench: Bench, measured: Measured, systems: Sequence[str], notes: Sequence[str]
) -> RunReport:
    """Make the report of measured models.

    Args:
        bench: with all cells.
        measured: settings and their models.
        systems: that were measured.
        notes: sentences about those that were not.
    """
    results = _results(bench, measured, systems)
    tables = [_agreement(results)]
    for setting, _ in measured:
        tables += _workloads(setting, systems, results)
    tables += [_starts(measured, systems, results)]
    for setting, _ in measured:
        tables += _details(setting, systems, results)
    plots = {"ratios": ratio_plot(_ratio_bars(measured, systems, results))}
    curves = _load_curves(measured, systems, results)
    if curves:
        plots["load"] = load_plot(curves)
    apart = bench.serving != bench.generator
    note = NOTE.format(
        cores=len(bench.serving),
        generator=f"the load generator has {'others' if apart else 'the same'}",
        notes="".join(f" {text}" for text in notes),
    )
    return RunReport("peers", "The service beside its peers", note, tables, plots)


def _results(bench: Bench, measured: Measured, systems: Sequence[str]) -> Results:
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for setting, model in measured:
        for turn in range(setting.rounds):
            for system in systems:
                for cell in bench.cells(setting, model, turn, system):
                    name = cell.workloads[0].name if cell.what == DRIVEN else cell.what
                    found.setdefault((model.name, system, name), []).append(read_cell(cell))
    return found


def _agreement(results: Results) -> Table:
    rows = [
        [
            f"{model}, {name}, {SYSTEMS[system]}",
            figures["masks"],
            figures["found"],
            Cell(figures["mean_iou"], decimals=4),
            Cell(figures["min_iou"], decimals=4),
        ]
        for (model, system, what), (first, *_) in results.items()
        if what == COMPARED and system != OFFICIAL
        for name, figures in first["agreement"].items()
    ]
    heads = ["workload", "masks of official SAM", "found", "mean IoU", "min IoU"]
    return Table("Agreement with official SAM", heads, rows)


def _workloads(setting: Setting, systems: Sequence[str], results: Results) -> list[Table]:
    return [
        _workload(setting, workload, systems, results)
        for workload in (*setting.workloads, *setting.once)
        if not workload.load and not _is_cost(setting, workload)
    ]


def _is_cost(setting: Setting, workload: Workload) -> bool:
    """Whether a workload belongs to a series over prompts or sizes."""
    return workload in setting.once and workload.clients == 1 and workload.kind != "everything"


def _workload(
    setting: Setting, workload: Workload, systems: Sequence[str], results: Results
) -> Table:
    rows: list[list[object]] = []
    official = results[setting.model, OFFICIAL, workload.name]
    for system in systems:
        if not supports(system, workload):
            continue
        mine = results[setting.model, system, workload.name]
        figures = figures_of(mine)
        time, cpu = ratios(mine, official)
        rows.append(
            [
                SYSTEMS[system],
                *(Cell(figures[f"{name}_ms"], decimals=0) for name in ("p50", "p95", "p99")),
                Cell(figures["throughput"], decimals=2),
                Cell(figures["cpu_s"], decimals=3),
                Cell(figures["pss_gib"], decimals=2),
                time,
                cpu,
                figures["failed"],
            ]
        )
    heads = ["system", "p50 ms", "p95 ms", "p99 ms", "answers/s", "CPU s a request"]
    heads += ["peak PSS GiB", "p50 over SamPredictor's", "CPU over SamPredictor's", "failed"]
    note = f"Requests a round: {workload.count}; rounds: {len(official)}."
    return Table(f"{_title(setting)}: {workload.name}", heads, rows, note)


def _title(setting: Setting) -> str:
    return f"{setting.model} at {IMAGE_SIZES[setting.model]}"


def _starts(measured: Measured, systems: Sequence[str], results: Results) -> Table:
    rows = [
        [
            f"{setting.model}, {SYSTEMS[system]}",
            mean_cell([one["seconds"] for one in results[setting.model, system, STARTED]]),
        ]
        for setting, _ in measured
        for system in systems
    ]
    return Table("From the start to the first answer", ["system", "seconds"], rows)


def _details(setting: Setting, systems: Sequence[str], results: Results) -> list[Table]:
    """Tables of what is measured in the first round alone."""
    tables = []
    series = [workload for workload in setting.once if _is_cost(setting, workload)]
    costs = [workload for workload in series if not workload.load]
    if costs:
        tables.append(_costs(setting, costs, systems, results))
    offered = [workload for workload in series if workload.load]
    if offered:
        tables.append(_offered(setting, offered, systems, results))
    if "gateway" in systems:
        tables.append(_phases(setting, results))
        tables += [_generators(one) for one in results.get((setting.model, "gateway", SECOND), [])]
    return tables


def _costs(
    setting: Setting, workloads: Sequence[Workload], systems: Sequence[str], results: Results
) -> Table:
    rows = []
    for workload in workloads:
        row: list[object] = [workload.name]
        for system in systems:
            figures = figures_of(results[setting.model, system, workload.name])
            row += [Cell(figures["p50_ms"], decimals=0), Cell(figures["cpu_s"], decimals=3)]
        rows.append(row)
    heads = ["requests"]
    for system in systems:
        heads += [f"{SYSTEMS[system]}: p50 ms", f"{SYSTEMS[system]}: CPU s"]
    return Table(f"{_title(setting)}: cost over prompts and sizes", heads, rows)


def _offered(
    setting: Setting, workloads: Sequence[Workload], systems: Sequence[str], results: Results
) -> Table:
    rows: list[list[object]] = []
    for system in systems:
        for workload in workloads:
            if supports(system, workload):
                mine = results[setting.model, system, workload.name]
                figures = figures_of(mine)
                rows.append(
                    [
                        f"{SYSTEMS[system]}, {100 * workload.load:.0f} %",
                        Cell(mine[0]["rate"], decimals=2),
                        *(Cell(figures[f"{name}_ms"], decimals=0) for name in ("p50", "p95")),
                        len(mine[0]["samples"]),
                        figures["failed"],
                    ]
                )
    heads = ["share of its capacity", "offered/s", "p50 ms", "p95 ms", "requests", "failed"]
    note = f"Capacity is the throughput of {CAPACITY}; requests arrive at random."
    return Table(f"{_title(setting)}: latency over offered load", heads, rows, note)


def _phases(setting: Setting, results: Results) -> Table:
    names = [
        workload.name
        for workload in (*setting.workloads, *setting.once)
        if workload.new and not _is_cost(setting, workload)
    ]
    spent = {name: results[setting.model, "gateway", name][0]["phases"] for name in names}
    phases = dict.fromkeys(phase for one in spent.values() for phase in one)
    rows = []
    for phase in [TOTAL, *(phase for phase in phases if phase != TOTAL)]:
        seconds = [spent[name].get(phase) for name in names]
        rows.append([phase, *(s and Cell(1000 * s) for s in seconds)])
    note = "Milliseconds a request; a step of Triton that ran for several at once counts once."
    return Table(f"{_title(setting)}: time by phase in the gateway", ["phase", *names], rows, note)


def _generators(result: Mapping[str, Any]) -> Table:
    ours, theirs = result["ours"], result["locust"]
    rows = [
        [title, *(Cell(part[key], decimals=3) for key in ("throughput", "mean_s"))]
        for title, part in (("this benchmark", ours), ("Locust", theirs))
    ]
    differ = [theirs[key] / ours[key] - 1 for key in ("throughput", "mean_s")]
    rows.append(["difference, %", *(Cell(100 * value) for value in differ)])
    within = all(abs(value) <= TOLERANCE for value in differ)
    note = (
        f"{CAPACITY}, through the gateway; {'within' if within else '**not within**'} "
        f"{100 * TOLERANCE:.0f} %. Failures of Locust: {result['failures']:.0f}."
    )
    return Table("A second load generator", ["", "answers/s", "mean s"], rows, note)


def _ratio_bars(
    measured: Measured, systems: Sequence[str], results: Results
) -> dict[str, dict[str, Cell]]:
    """CPU time over SamPredictor's by workload and system."""
    return {
        f"{setting.model}: {workload.name}": {
            SYSTEMS[system]: ratios(
                results[setting.model, system, workload.name],
                results[setting.model, OFFICIAL, workload.name],
            )[1]
            for system in systems
            if system != OFFICIAL and supports(system, workload)
        }
        for setting, _ in measured
        for workload in setting.workloads
    }


def _load_curves(
    measured: Measured, systems: Sequence[str], results: Results
) -> dict[str, list[tuple[float, float]]]:
    """(Answers a second, p95 in seconds) by system, for the models with offered loads."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for setting, _ in measured:
        for workload in setting.once:
            for system in systems:
                if workload.load and supports(system, workload):
                    (one,) = results[setting.model, system, workload.name]
                    point = (one["rate"], figures_of([one])["p95_ms"] / 1000)
                    curves.setdefault(f"{setting.model}, {SYSTEMS[system]}", []).append(point)
    return curves
