"""Hostile callers beside ordinary ones, as `make chaos` sends them, and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.chaos import __main__ as chaos
from benchmarks.chaos import growth, hostility, steady

pytestmark = [pytest.mark.triton, pytest.mark.slow]

REQUESTS = 120
TIMED = ("p99 of ordinary", "longest stall", "memory a minute later")
"""Checks that other programs on the machine decide; `make chaos` judges them."""


def test_hostile_callers_get_answers_and_leave_no_trace(
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chaos, "QUICK_ALONE_S", 1.0)
    monkeypatch.setattr(steady, "TIMEOUT_S", 60.0)
    # Other tests would starve callers of low priority, which then give up unanswered.
    monkeypatch.setattr(hostility, "NICENESS", 0)
    words = ["--scenario", "corpus", "--requests", REQUESTS, "--seed", 2, "--quick"]
    folders = ["--repository", repository, "--build", tmp_path / "build", "--out", tmp_path]
    assert chaos.main([*map(str, words), *map(str, folders)]) in (0, 1)
    verdict = json.loads((tmp_path / "corpus.json").read_text())
    figures, checks = verdict["figures"], verdict["checks"]
    assert figures["requests"] == REQUESTS and verdict["settings"]["seed"] == 2
    assert figures["statuses_at_the_gateway"]["INVALID_ARGUMENT"] > REQUESTS / 10
    judged = [check for check in checks if not check["what"].startswith(TIMED)]
    assert len(judged) == len(checks) - len(TIMED)
    assert [check for check in judged if not check["holds"]] == [], figures["bad_by_kind"]
    report = (tmp_path / "report.md").read_text()
    assert "### corpus" in report and report in capsys.readouterr().out


def test_growth_is_measured_of_every_process(repository: Path, tmp_path: Path) -> None:
    figures, checks = growth.run(repository, tmp_path, requests=24)
    roles = {name.split()[0] for name in figures["bytes_before"]}
    assert {"triton", "gateway", "decoder", "preprocess", "image_encoder"} <= roles
    assert figures["requests"] >= 24 and figures["statuses"] == {"OK": figures["requests"]}
    # So few requests do not fill the allocators' free lists.
    assert len(checks) == 2 + len(figures["bytes_before"])
