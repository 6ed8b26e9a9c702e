from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.job_cache import is_current, missing, store
from benchmarks.peers.cells import COMPARED, DRIVEN, SECOND, STARTED, Cell
from benchmarks.peers.load.workloads import EVERYTHING
from benchmarks.peers.measure import Bench
from benchmarks.peers.models import PeerModel
from benchmarks.peers.phases import TOTAL
from benchmarks.peers.plan import CAPACITY, FULL, QUICK, SYSTEMS, Setting
from benchmarks.peers.report import report_of

MODEL = PeerModel("vit_t", Path("w"), Path("o"), Path("r"), "d" * 64)
TESTED = ["official", "litserve", "triton", "gateway"]
SLOWER = {"official": 1.0, "litserve": 3.0, "triton": 0.5, "gateway": 0.25}


def bench(out: Path, commit: str = "abc1234") -> Bench:
    cores = frozenset({0, 1})
    return Bench(out, Path("python"), cores, cores, {"commit": commit})


def fake_result(cell: Cell) -> dict[str, Any]:
    """A result as `measure` stores it, whose times are `SLOWER` times a second."""
    if cell.what == STARTED:
        return {"seconds": 5.0 + cell.turn}
    if cell.what == COMPARED:
        if cell.system == "official":
            return {"masks": {}}
        figures = {"masks": 3, "found": 3, "mean_iou": 0.9987, "min_iou": 0.5}
        return {"agreement": {workload.name: figures for workload in cell.workloads}}
    if cell.what == SECOND:
        ours, theirs = {"throughput": 2.0, "mean_s": 4.0}, {"throughput": 1.5, "mean_s": 4.1}
        return {"ours": ours, "locust": theirs, "failures": 0.0}
    (workload,) = cell.workloads
    seconds = SLOWER[cell.system] * (1 + cell.turn)
    result = {
        "samples": [[number * seconds, seconds, "OK"] for number in range(4)],
        "rate": workload.load,
        "cpu_s": 8 * seconds,
        "pss_peak_bytes": 2**29,
    }
    phases = {TOTAL: 0.5, "gateway: queue": 0.1}
    return {**result, "phases": phases} if cell.system == "gateway" else result


def all_cells(bench: Bench, setting: Setting) -> list[Cell]:
    return [
        cell
        for turn in range(setting.rounds)
        for system in TESTED
        for cell in bench.cells(setting, MODEL, turn, system)
    ]


def test_report_shows_ratios_to_official_sam_in_the_same_round(tmp_path: Path) -> None:
    setting = QUICK[0]
    for cell in all_cells(bench(tmp_path), setting):
        store(cell, fake_result(cell))
    report = report_of(bench(tmp_path), [(setting, MODEL)], TESTED, ["No GPU."])
    tables = {table.title: table for table in report.tables}
    new = tables["vit_t at 256: one click, new image"].markdown()
    # Rounds of 3 s and 6 s beside 1 s and 2 s: the ratio does not spread.
    assert "| LitServe + SamPredictor | 4500 | 6000 |" in new
    assert "| 3.00 ± 0.00 | 3.00 ± 0.00 | 0 |" in new
    everything = tables["vit_t at 256: everything, grid of 16 x 16"].markdown()
    assert "Triton alone" not in everything and "gateway and Triton" in everything
    second = tables["A second load generator"]
    assert "**not within**" in second.note and "-25.0" in second.markdown()
    phases = tables["vit_t at 256: time by phase in the gateway"].markdown()
    assert "| gateway: queue | 100.0 |" in phases
    assert "| vit_t, gateway and Triton | 5.5 ± 0.7 |" in report.body()
    assert "0.9987" in report.body() and report.note.endswith("No GPU.")
    assert len(report.plots) == 2
    assert all(plot.startswith(b"\x89PNG") for plot in report.plots.values())


def test_cell_is_measured_again_after_a_change_of_commit_or_plan(tmp_path: Path) -> None:
    setting = QUICK[0]
    cells = all_cells(bench(tmp_path), setting)
    assert len({cell.path for cell in cells}) == len(cells) == len(missing(cells))
    store(cells[0], {"seconds": 1.0})
    assert is_current(cells[0])
    assert not is_current(all_cells(bench(tmp_path, "def5678"), setting)[0])
    driven = next(cell for cell in cells if cell.what == DRIVEN)
    store(driven, {"samples": []})
    later = [cell for cell in all_cells(bench(tmp_path), FULL[0]) if cell.path == driven.path]
    assert is_current(driven) and not is_current(later[0])


@pytest.mark.parametrize("setting", [*FULL, *QUICK], ids=lambda setting: setting.model)
def test_plans_give_every_figure_to_every_system_that_can(setting: Setting, tmp_path: Path) -> None:
    for system in SYSTEMS:
        cells = bench(tmp_path).cells(setting, MODEL, 0, system)
        assert [cell.what for cell in cells[:2]] == [STARTED, COMPARED]
        workloads = [cell.workloads[0] for cell in cells if cell.what == DRIVEN]
        served = system in ("litserve", "triton", "gateway")
        offered = [workload for workload in setting.once if workload.load]
        assert [workload for workload in workloads if workload.load] == (offered if served else [])
        grids = [workload for workload in workloads if workload.kind == EVERYTHING]
        assert not (grids and system == "triton")
        assert (cells[-1].what == SECOND) == (system == "gateway" and setting.second_load)
    names = [workload.name for workload in (*setting.workloads, *setting.once)]
    assert len({*names}) == len(names)
    # Shares of the capacity refer to it, so it is measured before them.
    if any(workload.load for workload in setting.once) or setting.second_load:
        assert CAPACITY in [workload.name for workload in setting.workloads]
