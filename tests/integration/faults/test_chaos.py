"""A killed step and hostile callers: what the service promises, as `make chaos` measures it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import kills
from benchmarks.chaos.__main__ import main
from benchmarks.chaos.growth import run as grow
from benchmarks.chaos.hostility import CorpusPlan
from benchmarks.chaos.hostility import run as attack
from benchmarks.serving.report import Check

pytestmark = [pytest.mark.triton, pytest.mark.slow]

REQUESTS = 300
WIDER = {
    **dict.fromkeys(("seconds to healthy", "p99 of ordinary", "longest stall"), 4.0),
    "memory a minute later": 1.25,
}
"""Factors of bounds: other tests take the cores, and allocators grow in a run as short as this."""


def missed(checks: list[Check]) -> list[tuple[str, ...]]:
    def factor(check: Check) -> float:
        return next((factor for part, factor in WIDER.items() if part in check.what), 1.0)

    wider = [replace(check, bound=factor(check) * check.bound) for check in checks]
    return [check.row() for check in wider if not check.holds]


def test_service_repairs_a_killed_step_and_never_claims_to_serve_meanwhile(
    repository: Path, tmp_path: Path
) -> None:
    figures, checks = kills.kill_steps(repository, tmp_path, seed=0, quick=True)
    assert figures and missed(checks) == []


def test_hostile_callers_leave_the_gateway_as_it_was(repository: Path, tmp_path: Path) -> None:
    plan = CorpusPlan(tuple(range(REQUESTS)), seed=0, alone_s=4.0)
    figures, checks = attack(repository, tmp_path, plan)
    assert figures["statuses_at_the_gateway"]["INVALID_ARGUMENT"] > REQUESTS / 10
    assert missed(checks) == [], figures["bad_by_kind"] | figures["stalls_s"]


def test_growth_is_measured_of_every_process(repository: Path, tmp_path: Path) -> None:
    figures, checks = grow(repository, tmp_path, requests=24)
    roles = {name.split()[0] for name in figures["bytes_before"]}
    assert {"triton", "gateway", "decoder", "preprocess", "image_encoder"} <= roles
    assert figures["requests"] >= 24 and figures["statuses"] == {"OK": figures["requests"]}
    # So few requests do not fill the allocators' free lists.
    assert len(checks) == 2 + len(figures["bytes_before"])


def test_chaos_command_writes_a_verdict_and_a_report(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scenario", "corpus", "--families", "tcp", "--only", "5", "--seed", "2", "--quick"]
    folders = ["--repository", repository, "--build", tmp_path / "build", "--out", tmp_path]
    assert main([*words, *map(str, folders)]) in (0, 1)
    verdict = json.loads((tmp_path / "corpus.json").read_text())
    assert verdict["figures"]["requests"] == 1 and verdict["settings"]["seed"] == 2
    report = (tmp_path / "report.md").read_text()
    assert "### corpus" in report and report in capsys.readouterr().out
