"""Measure all cells of a model: rounds of all systems in turn, each started for its part alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.common.job_cache import missing, store
from benchmarks.peers.agreement import agreement, require_agreement
from benchmarks.peers.cells import COMPARED, DRIVEN, SECOND, STARTED, Cell, cells_of, read_cell
from benchmarks.peers.costs import on_cores, pss_peak
from benchmarks.peers.figures import samples_of, throughput
from benchmarks.peers.load.workloads import Workload
from benchmarks.peers.models import PeerModel
from benchmarks.peers.phases import phase_seconds, snapshot
from benchmarks.peers.plan import CAPACITY, OFFICIAL, Setting
from benchmarks.peers.second_load import compare_generators
from benchmarks.peers.systems.start import Running, start
from benchmarks.serving.stack import cpu_seconds

__all__ = ["Bench", "measure"]

FIRST = Workload("first answer", new=False)
"""Of which one click on the new image is sent; it is a known one then."""
SECOND_SECONDS = 8.0
"""Least duration of each load generator's part in their comparison."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share.

    Attributes:
        out: folder of cells and logs.
        python: interpreter of the peers' environment.
        serving: cores of every system.
        generator: cores of the load generator.
        run: what identifies a run, beside the configurations of its cells.
    """

    out: Path
    python: Path
    serving: frozenset[int]
    generator: frozenset[int]
    run: Mapping[str, Any]

    def cells(self, setting: Setting, model: PeerModel, turn: int, system: str) -> list[Cell]:
        """List the cells of a system's part in a round."""
        return cells_of(self.out / "cells", setting, model, turn, system, self.run)


def measure(bench: Bench, setting: Setting, model: PeerModel, systems: Sequence[str]) -> None:
    """Measure what has no current result.

    Args:
        bench: shared by all measurements.
        setting: of the model.
        model: exported.
        systems: in the order of a round; official SAM is the first.

    Raises:
        ServingError: a system does not start, or its masks are not official SAM's.
    """
    for turn in range(setting.rounds):
        for system in systems:
            cells = bench.cells(setting, model, turn, system)
            todo = missing(cells)
            if not todo:
                continue
            _note(f"{model.name}, round {turn + 1}, {system}: {len(todo)} of {len(cells)} cells")
            began = time.perf_counter()
            with ExitStack() as stack:
                with on_cores(bench.serving):
                    starting = start(system, model, bench.out / "logs", bench.python)
                    running = stack.enter_context(starting)
                stack.enter_context(on_cores(bench.generator))
                running.prime(FIRST)
                started_s = time.perf_counter() - began
                for cell in tqdm(todo, desc=system, file=sys.stderr):
                    store(cell, _result(bench, setting, model, cell, running, started_s))


def _result(
    bench: Bench,
    setting: Setting,
    model: PeerModel,
    cell: Cell,
    running: Running,
    started_s: float,
) -> dict[str, Any]:
    if cell.what == STARTED:
        return {"seconds": started_s}
    if cell.what == COMPARED:
        return _compare(bench, setting, model, cell, running)
    capacity = partial(_capacity, bench, setting, model, cell)
    if cell.what == SECOND:
        workload = next(w for w in setting.workloads if w.name == CAPACITY)
        count = max(workload.count, round(SECOND_SECONDS * capacity()))
        long = replace(workload, count=count)
        seconds = count / capacity()
        return compare_generators(running, long, seconds, bench.python, bench.out / "logs")
    (workload,) = cell.workloads
    return _drive(running, workload, workload.load and workload.load * capacity())


def _drive(running: Running, workload: Workload, rate: float) -> dict[str, Any]:
    running.prime(workload)
    before = snapshot(running.service) if running.service else None
    load_average = os.getloadavg()[0]
    with pss_peak(running.pid) as peak:
        spent = cpu_seconds(running.pid)
        samples = running.drive(workload, rate)
        spent = cpu_seconds(running.pid) - spent
    result = {
        "samples": [astuple(sample) for sample in samples],
        "rate": rate,
        "cpu_s": spent,
        "pss_peak_bytes": peak(),
        "load_average": load_average,
    }
    if running.service and before:
        result["phases"] = phase_seconds(before, snapshot(running.service))
    return result


def _compare(
    bench: Bench, setting: Setting, model: PeerModel, cell: Cell, running: Running
) -> dict[str, Any]:
    found = {
        workload.name: [[mask.decode() for mask in masks] for masks in running.masks(workload)]
        for workload in cell.workloads
    }
    if cell.system == OFFICIAL:
        return {"masks": found}
    reference = next(
        other for other in bench.cells(setting, model, 0, OFFICIAL) if other.what == COMPARED
    )
    compared = agreement(cell.workloads, read_cell(reference)["masks"], found)
    require_agreement(cell.system, compared)
    return {"agreement": compared}


def _capacity(bench: Bench, setting: Setting, model: PeerModel, cell: Cell) -> float:
    """Throughput of the system's closed loop in the same round, answers a second."""
    measured = next(
        other
        for other in bench.cells(setting, model, cell.turn, cell.system)
        if other.what == DRIVEN and other.workloads[0].name == CAPACITY
    )
    return throughput(samples_of(read_cell(measured)))


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
