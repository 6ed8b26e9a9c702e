"""Systems side by side: real processes, equal masks, costs, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter, sleep

import pytest

from benchmarks.peers.cells import COMPARED, DRIVEN, STARTED, read_cell
from benchmarks.peers.costs import pss_bytes, pss_peak
from benchmarks.peers.figures import figures_of
from benchmarks.peers.load.workloads import BOX, EVERYTHING, Workload
from benchmarks.peers.measure import Bench, measure
from benchmarks.peers.models import PeerModel
from benchmarks.peers.plan import CAPACITY, Setting
from benchmarks.peers.report import report_of
from benchmarks.serving.ports import processes_below
from cpcsam.errors import ServingError
from cpcsam.model.base_checkpoint import base_digest
from tests.support.paths import ROOT

SETTING = Setting(
    "vit_t",
    1,
    (
        Workload("compared clicks", count=2, side=200),
        Workload("compared boxes", BOX, new=False, prompts=18, side=200),
        Workload("compared grid", EVERYTHING, prompts=6, side=200),
    ),
    (
        Workload("clicks", count=3, new=False, side=200),
        Workload(CAPACITY, count=8, clients=8, side=200),
    ),
    (Workload("load 50 %", load=0.5, seconds=0.5, side=200),),
)
SYSTEMS = ["official", "onnx", "triton", "gateway"]

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def bench(out: Path) -> Bench:
    cores = frozenset(os.sched_getaffinity(0))
    return Bench(out, Path(sys.executable), cores, cores, {"commit": "abc1234"})


@pytest.fixture(scope="module")
def model(shipped_build: Path) -> PeerModel:
    weights = ROOT / "weights/vit_t"
    paths = (weights, shipped_build / "onnx", shipped_build / "repository")
    return PeerModel("vit_t", *paths, base_digest(weights))


@pytest.fixture(scope="module")
def measured(model: PeerModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = bench(tmp_path_factory.mktemp("peers"))
    before = processes_below(os.getpid())
    measure(made, SETTING, model, SYSTEMS)
    assert processes_below(os.getpid()) <= before
    return made


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_answers_with_equal_masks_and_has_its_costs(
    measured: Bench, model: PeerModel, system: str
) -> None:
    for cell in measured.cells(SETTING, model, 0, system):
        result = read_cell(cell)
        if cell.what == STARTED:
            assert result["seconds"] > 0
        elif cell.what == COMPARED and system != "official":
            assert len(result["agreement"]) == (2 if system == "triton" else 3)
            for figures in result["agreement"].values():
                assert figures["masks"] == figures["found"] > 0
                assert figures["mean_iou"] > 0.999
        elif cell.what == DRIVEN:
            figures = figures_of([result])
            assert figures["failed"] == 0 < figures["throughput"]
            assert len(result["samples"]) == cell.workloads[0].count or result["rate"]
            assert 0.001 < figures["cpu_s"] < 60 and 0.05 < figures["pss_gib"] < 8
            assert ("phases" in result) == (system == "gateway")


HOLDER = """
import sys
held = b"x" * 80_000_000
print(flush=True)
sys.stdin.readline()
del held
print(flush=True)
sys.stdin.readline()
"""


def test_memory_and_its_peak_follow_a_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        with pss_peak(process.pid) as peak:
            process.stdout.readline()
            deadline = perf_counter() + 120
            while peak() < 80_000_000 and perf_counter() < deadline:
                sleep(0.05)
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            assert pss_bytes([process.pid]) < 60_000_000
            assert 80_000_000 <= peak() < 140_000_000
        process.stdin.close()
    assert pss_bytes([process.pid]) == 0


def test_measured_cells_are_not_measured_again(measured: Bench, model: PeerModel) -> None:
    cells = [cell.path for system in SYSTEMS for cell in measured.cells(SETTING, model, 0, system)]
    written = [path.stat().st_mtime_ns for path in cells]
    measure(measured, SETTING, model, SYSTEMS)
    assert [path.stat().st_mtime_ns for path in cells] == written
    body = report_of(measured, [(SETTING, model)], SYSTEMS, []).body()
    assert "| gateway and Triton, 50 % |" in body and "Triton: decoder" in body


def test_a_service_of_another_model_stops_the_run(
    measured: Bench, model: PeerModel, repository: Path, tmp_path: Path
) -> None:
    other = PeerModel("vit_t", model.weights, model.onnx, repository, model.digest)
    made = bench(tmp_path)
    for cell in measured.cells(SETTING, model, 0, "official"):
        (tmp_path / "cells").mkdir(exist_ok=True)
        (tmp_path / "cells" / cell.path.name).write_bytes(cell.path.read_bytes())
    before = processes_below(os.getpid())
    with pytest.raises(ServingError, match="masks of triton, compared clicks"):
        measure(made, SETTING, other, ["official", "triton"])
    assert processes_below(os.getpid()) <= before
    driven = [cell for cell in made.cells(SETTING, other, 0, "triton") if cell.what == DRIVEN]
    assert not any(cell.path.exists() for cell in driven)
