"""The comparison of bases: its table and what it measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bases import main, report_of
from tests.support.paths import ROOT


def test_the_report_has_a_row_a_set_and_two_columns_a_base() -> None:
    rows = [
        {"set": name, "sha256": digest * 64, "entities": 9, "accurate": dice, "careless": dice / 2}
        for digest, dice in (("a", 0.8), ("b", 0.9))
        for name in ("nuclei", "objects")
    ]
    table = report_of({"machine": "m", "rows": rows}).tables[0]
    assert list(table.heads[2:]) == [
        f"`{digest * 12}` {kind}" for digest in "ab" for kind in ("accurate", "careless")
    ]
    assert list(table.rows[1]) == ["objects", 9, "0.800", "0.400", "0.900", "0.450"]


def test_photographs_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "benchmarks/photographs"
    arguments = ["--coco", str(folder), "--every", "16", "--out", str(tmp_path)]
    assert main(["--base", str(ROOT / "weights/vit_t"), *arguments]) == 0
    [row] = json.loads((tmp_path / "bases.json").read_text())["rows"]
    assert row["set"] == "photographs" and row["entities"] > 5
    assert 0.2 < row["careless"] < row["accurate"] < 1
    assert "| photographs |" in capsys.readouterr().out


def test_no_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--base", str(ROOT / "weights/vit_t")])
    assert "expected --bbbc038, --vector-art or --coco" in capsys.readouterr().err
