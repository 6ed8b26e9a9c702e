"""The benchmark of attention's memory measures every variant in processes of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.attention import main
from benchmarks.common.memory import reset_rss_peak, rss_peak_bytes
from benchmarks.common.output import add_report_option, publish
from benchmarks.cpu_functions import SIZES, measure_functions
from benchmarks.cpu_steps import (
    encoder_flops,
    measure_requests,
    reckon_encoders,
    report_of,
    share_of_encoder,
    steps_of,
)
from benchmarks.serving import followup, goodput, mixed
from benchmarks.serving.stack import service
from cpcsam.commands import ArgumentParser
from cpcsam.model.build_sam import ENCODERS, build_sam
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
        assert 0 < row["cpu_s"] <= row["cpu_median_s"]
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


def test_the_peak_is_of_the_work_since_its_reset() -> None:
    held = np.ones(200_000_000, np.uint8)
    whole = rss_peak_bytes()
    del held
    reset_rss_peak()
    assert rss_peak_bytes() < whole - 150_000_000


@pytest.fixture(scope="module")
def running(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(repository, tmp_path_factory.mktemp("serve")) as started:
        yield started


@pytest.mark.triton
@pytest.mark.slow
def test_goodput_counts_every_request_and_every_run_of_the_encoder(running: Service) -> None:
    figures, checks = goodput.measure_goodput(running, seconds=1, deadlines_s=(0.5,))
    found = figures["deadline_0.5_s"]
    answered = found["statuses"].get("OK", 0)
    assert sum(found["statuses"].values()) > answered
    assert found["encoded_an_answer"] * max(answered, 1) >= answered
    (check,) = checks
    capacity = found["capacity_a_second"]
    assert check.value == pytest.approx(found["goodput_a_second"] / capacity)
    assert capacity == pytest.approx(np.mean(figures["capacities_a_second"]), abs=0.01)


@pytest.mark.triton
@pytest.mark.slow
def test_company_benchmark_finds_equal_responses(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "TASKS", 16)
    figures, checks = mixed.run(running, clients=48, seconds=2)
    assert figures["requests"] >= 12 and figures["logit_answers"] >= 1
    assert figures["cache_lookups"]["miss"] > 0
    # Other tests may starve Triton until the gateway says UNAVAILABLE; what is answered is equal.
    assert figures["statuses"].keys() <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    refusals, *equal = checks
    assert refusals.value == figures["statuses"].get("UNAVAILABLE", 0)
    assert [check.row() for check in equal if not check.holds] == []


@pytest.mark.triton
@pytest.mark.slow
def test_cache_benchmark_encodes_a_repeated_image_once(running: Service) -> None:
    figures, checks = followup.run(running, ratio=False)
    assert figures["encoded"] == figures["images"]
    assert figures["encoded_of_requests_that_met"] == 1
    assert [check.row() for check in checks if not check.holds] == []


@pytest.mark.triton
@pytest.mark.slow
def test_measure_requests_returns_cpu_time_by_kind_and_process(running: Service) -> None:
    processes = asyncio.run(measure_requests(running, requests=1))
    assert {*processes} == {"new image", "follow-up"}
    for taken in processes.values():
        assert {"gateway", "tritonserver", "preprocess", "decoder"} <= {*taken}
    assert processes["new image"]["image_encoder"] > 0


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


def test_encoder_flops_are_those_that_torch_counts() -> None:
    with torch.device("meta"):
        encoder = build_sam("vit_b").image_encoder
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, 3, 1024, 1024))
    # Torch counts the products with relative positions as well.
    assert counter.get_total_flops() == pytest.approx(encoder_flops(ENCODERS["vit_b"]), rel=0.05)
    published = 2973e9  # multiplications of vit_h, in EfficientViT-SAM's paper
    assert encoder_flops(ENCODERS["vit_h"]) / 2 == pytest.approx(published, rel=0.01)


def test_a_step_on_16_cores_is_reckoned_as_a_share_of_the_encoder() -> None:
    one = reckon_encoders()["vit_b"]
    assert one["h100_images_s"] == pytest.approx(94.92 * 989 / 312)
    assert share_of_encoder(16.0, one) == pytest.approx(1.0 / one["encoder_ms"])
    assert one["share_of_peak"] == pytest.approx(94.92 * one["gflop"] / 312e3)


def test_functions_of_a_request_are_measured_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("full HD", (90, 160)), ("12 MP", (600, 2100))):
        monkeypatch.setitem(SIZES, name, size)
    functions = measure_functions(rounds=1)
    large = functions["12 MP"]
    assert large["differences"]["through an array"]["share"] == 0
    assert large["differences"]["draft"]["share"] > 0
    assert functions["full HD"]["differences"]["draft"]["share"] == 0
    processes = dict.fromkeys(("gateway", "tritonserver", "preprocess", "decoder"), 10.0)
    steps = steps_of(functions["full HD"]["steps"], processes)
    result = {
        "functions": functions,
        "processes": dict.fromkeys(("new image", "follow-up"), processes),
        "steps_ms": steps,
        "models": reckon_encoders(),
        "instances": {"preprocess": 2},
        "machine": "a machine",
        "requests": 4,
        "rounds": 1,
    }
    report = report_of(result)
    figures = {
        (figure["row"], figure["column"]): figure["value"]
        for table in report.tables
        for figure in table.figures()
    }
    assert figures["preprocess", "images/s of these"] == 200
    assert figures["gateway", "of vit_h's encoder, %"] == pytest.approx(
        100 * share_of_encoder(10.0, reckon_encoders()["vit_h"])
    )
    assert "| resize and pad |" in report.body()
