"""The benchmark of attention's memory measures every variant in processes of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.attention import main


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
