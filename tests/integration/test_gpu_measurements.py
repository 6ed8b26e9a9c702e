"""GPU measurements run every stage in a process of its own, whatever happens in the others."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import run_stages
from benchmarks.gpu.process import RESULTS, Options, StageProcess
from benchmarks.gpu.report import read_results
from benchmarks.gpu.stage import Stage
from tests.support.paths import ROOT
from tests.support.processes.commands import run_module

STAGES = {
    "sound": """
        yield {"case": "a", "call_ms": 1.5}
        yield {"case": "b", "seconds_granted": context.left_s()}
    """,
    "raising": """
        yield {"case": "before", "call_ms": 2.5}
        raise RuntimeError("a kernel\\nfailed")
    """,
    "crashing": """
        yield {"case": "before", "call_ms": 3.5}
        os.kill(os.getpid(), signal.SIGSEGV)
    """,
    "overrunning": """
        worker = subprocess.Popen(["sleep", "600"])
        yield {"case": "before", "worker": worker.pid}
        time.sleep(600)
    """,
}
IMPORT_S = 300.0
"""A busy machine takes long to import torch."""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    """Stages that end well or not, as modules that their processes can import."""
    folder = tmp_path / "stages"
    folder.mkdir()
    for name, body in STAGES.items():
        lines = ["import os, pathlib, signal, subprocess, time"]
        lines += [f"pathlib.Path({str(folder)!r}, 'loaded').touch()", "def measure(context):"]
        lines += [f"    {line.strip()}" for line in body.strip().splitlines()]
        (folder / f"gpu_{name}.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
    return {name: Stage(name, IMPORT_S, 1, "", f"gpu_{name}") for name in STAGES}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_stages_that_fail_cost_the_others_nothing(stages: dict[str, Stage], out: Path) -> None:
    order = [
        stages["raising"],
        stages["crashing"],
        Stage("missing", IMPORT_S, 1, "", "gpu_missing"),
    ]
    run_stages([*order, stages["sound"]], Options(out, "cpu", quick=True), 1200)
    results = read_results(out)
    statuses = {record["stage"]: record for record in results if "status" in record}
    assert {name: status["status"] for name, status in statuses.items()} == {
        "raising": "failed",
        "crashing": "failed",
        "missing": "failed",
        "sound": "done",
    }
    assert statuses["raising"]["reason"] == "RuntimeError: a kernel failed"
    assert statuses["crashing"]["reason"].startswith("killed by SIGSEGV")
    assert "No module named 'gpu_missing'" in statuses["missing"]["reason"]
    measured = [record["stage"] for record in results if "status" not in record]
    assert measured == ["raising", "crashing", "sound", "sound"]
    report = (out / "report.md").read_text()
    assert "| sound | done |" in report and "| b |" in report and "a kernel failed" in report
    assert "Traceback" in (out / "log.txt").read_text()
    assert {file.name for file in out.iterdir()} == {
        "log.txt", "report.csv", "report.md", "results.jsonl"
    }  # fmt: skip


@pytest.mark.slow
def test_overrunning_stage_is_killed_with_its_workers(stages: dict[str, Stage], out: Path) -> None:
    process = StageProcess(stages["overrunning"], Options(out, "cpu"))
    wait_until_loaded(out.parent / "stages")
    status = process.run(5)
    assert (status["status"], status["reason"]) == ("overran", "killed after 5 s")
    assert status["seconds"] >= 5
    measured, ended = read_results(out)
    assert measured["case"] == "before" and ended == status
    assert not alive(measured["worker"])


@pytest.mark.slow
def test_stage_gets_its_time_when_it_runs_and_not_when_it_starts(
    stages: dict[str, Stage], out: Path
) -> None:
    process = StageProcess(stages["sound"], Options(out, "cpu"))
    wait_until_loaded(out.parent / "stages")
    assert process.run(20)["status"] == "done"
    assert 5 < read_results(out)[1]["seconds_granted"] <= 19


@pytest.mark.slow
def test_stage_without_time_left_is_skipped(stages: dict[str, Stage], out: Path) -> None:
    run_stages([stages["sound"], stages["overrunning"]], Options(out, "cpu"), 1)
    assert [(record["stage"], record["status"]) for record in read_results(out)] == [
        ("sound", "skipped"),
        ("overrunning", "skipped"),
    ]


def wait_until_loaded(stages: Path) -> None:
    """Wait until a process has imported its stage, which leaves a file."""
    for _ in range(int(IMPORT_S / 0.1)):
        if (stages / "loaded").exists():
            return
        time.sleep(0.1)
    raise TimeoutError(f"no stage was imported within {IMPORT_S} s")


@pytest.mark.slow
def test_command_measures_the_machine_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu"
    words = ["benchmarks.gpu", "--out", str(out), "--device", "cpu", "--quick"]
    done = run_module([*words, "--stages", "environment", "driver", "jpeg"], tmp_path)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]
    statuses = [(r["stage"], r["status"]) for r in records if "status" in r]
    assert statuses == [("environment", "done"), ("driver", "done"), ("jpeg", "done")]
    [copy] = [record for record in records if record.get("case") == "copy"]
    assert 0.1 < copy["moved_gbps"] < 10_000
    assert {r["dtype"] for r in records if "rate_tflops" in r} == {"bfloat16", "float16", "float32"}
    pillow, torchvision = [r for r in records if r["stage"] == "jpeg" and "decode_ms" in r][:2]
    assert pillow["decode_ms"] > 0 and torchvision["difference_max"] <= 4
    assert "Not measured" in done.stdout and "PATH" in (out / "report.md").read_text()


@pytest.fixture
def stand_in_driver(tmp_path: Path) -> Path:
    """A folder with a CUDA driver whose device memory is the host's."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler; on Debian: apt-get install gcc")
    source = ROOT / "tests/support/stand_in_gpu/libcuda.c"
    library = tmp_path / "driver/libcuda.so.1"
    library.parent.mkdir()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    ctypes.CDLL(str(library))
    return library.parent


@pytest.mark.slow
def test_driver_stage_checks_every_call_of_a_driver(
    out: Path, stand_in_driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stand_in_driver))
    stage = Stage("driver", IMPORT_S, 1, "")
    assert StageProcess(stage, Options(out, "cpu", quick=True)).run(IMPORT_S)["status"] == "done"
    checks = {r["case"]: r["holds"] for r in read_results(out) if "holds" in r}
    assert len(checks) == 5 and all(checks.values()), checks
