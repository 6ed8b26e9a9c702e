"""The benchmark of attention's memory measures every variant in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attention import main
from benchmarks.common.output import add_report_option, publish
from benchmarks.serving import followup, goodput, mixed
from benchmarks.serving.stack import service
from cpcsam.commands import ArgumentParser
from demo.commands import Service
from reporting.run_report import RunReport, Table, current_provenance, machine_of
from reporting.tables import Cell


def test_every_variant_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model-size vit_t --image-size 256 --queries 64 --rounds 1".split()
    assert main([*words, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "attention.json").read_text())
    rows = {(row["variant"], row["arena"]): row for row in report["rows"]}
    assert {*rows} == {(name, arena) for name in ("official", "64") for arena in (True, False)}
    for row in rows.values():
        assert 0 < row["cpu_s"] <= row["cpu_median_s"] < 5
        assert 0.05 < row["rss_peak_gb"] < 2
    assert (tmp_path / "attention.md").read_text() == capsys.readouterr().out


def test_unknown_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model-size", "vit_x", "--out", str(tmp_path)]) == 2
    assert "expected vit_t | vit_b" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


SCRIPT = "from benchmarks.common.memory import rss_peak_bytes; print(rss_peak_bytes())"


def test_the_peak_is_the_programs_own_and_not_its_parents() -> None:
    held = np.ones(300_000_000, np.uint8)
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, text=True
    )
    assert 1_000_000 < int(told.stdout) < 100_000_000 < held.sum()


@pytest.fixture(scope="module")
def running(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(repository, tmp_path_factory.mktemp("serve")) as started:
        yield started


@pytest.mark.triton
@pytest.mark.slow
def test_overload_with_short_deadlines_computes_little_for_nobody(running: Service) -> None:
    figures, checks = goodput.measure_goodput(running, seconds=2, deadlines_s=(0.5,))
    found = figures["deadline_0.5_s"]
    assert found["statuses"]["RESOURCE_EXHAUSTED"] > found["statuses"].get("DEADLINE_EXCEEDED", 0)
    assert found["encoded_an_answer"] < 1.3
    (check,) = checks
    assert check.value > 0.5


@pytest.mark.triton
@pytest.mark.slow
def test_company_benchmark_finds_equal_responses(running: Service) -> None:
    figures, checks = mixed.run(running, clients=48, seconds=8)
    assert figures["requests"] >= 12 and figures["logit_answers"] >= 1
    assert figures["statuses"].keys() <= {"OK", "RESOURCE_EXHAUSTED"}
    assert figures["cache_lookups"]["miss"] > 0
    assert [check.row() for check in checks if not check.holds] == []


@pytest.mark.triton
@pytest.mark.slow
def test_cache_benchmark_encodes_a_repeated_image_once(running: Service) -> None:
    figures, checks = followup.run(running, ratio=False)
    assert figures["encoded"] == figures["images"]
    assert figures["encoded_of_requests_that_met"] == 1
    assert [check.row() for check in checks if not check.holds] == []


def test_publish_with_report_option_writes_into_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser(prog="python -m benchmarks.toy")
    parser.add_argument("--data")
    argv = ["--report", "--data=/home/me/data"]
    add_report_option(parser, argv)
    report = RunReport("toy", "A toy", "", [Table("", ["arm", "Dice"], [["A", Cell(1.0)]])])
    publish(report, Path("out/toy.md"), parser.parse_args(argv), "f" * 64)
    text = Path("benchmarks/reports/toy.md").read_text()
    assert "`python -m benchmarks.toy --report --data=PATH`" in text and "/home" not in text
    assert "| commit | not recorded |" in text and f"| base | `{'f' * 12}` |" in text
    assert Path("benchmarks/reports/toy.csv").exists()


def test_current_provenance_has_commit_date_and_machine() -> None:
    provenance = current_provenance(["make", "bench"])
    names = [name for name, _ in provenance.rows()]
    assert names == ["command", "commit", "date", "machine"]
    assert provenance.command == "make bench" and len(provenance.date) == 10
    assert provenance.machine == machine_of() and machine_of().endswith(" cores")
