"""Reports of benchmark runs: Markdown for readers, CSV in full precision, provenance at the top."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.common.output import add_report_option, publish
from cpcsam.commands import ArgumentParser
from reporting.run_report import Provenance, RunReport, Table
from reporting.tables import Cell, Interval, mean_cell, parts_of

PROVENANCE = Provenance("make bench", "abc1234", "2026-11-28", "x86_64, 2 cores", "0" * 64)


def report() -> RunReport:
    rows = [
        ["A", Cell(82.2468, 1.04, 5), Interval(13.06, 11.3, 14.8), 190],
        ["B", Cell(65.4), None, 595],
    ]
    table = Table("eight scenes", ["arm", "Dice", "gain", "steps"], rows, "Five seeds.")
    return RunReport("toy", "A toy", "Scores in %.", [table], {"noise": b"\x89PNG"})


def test_run_report_markdown_shows_provenance_plots_and_rounded_cells(tmp_path: Path) -> None:
    path = report().write(tmp_path, PROVENANCE)
    text = path.read_text()
    assert path.name == "toy.md" and text.startswith("# A toy\n")
    for line in ("| command | `make bench` |", "| commit | abc1234 |", f"| base | `{'0' * 12}` |"):
        assert line in text
    assert "![noise](toy-noise.png)" in text
    assert (tmp_path / "toy-noise.png").read_bytes() == b"\x89PNG"
    assert "### eight scenes\n" in text and text.endswith("Five seeds.\n")
    assert "| A | 82.2 ± 1.0 | +13.1 [+11.3, +14.8] | 190 |" in text
    assert "| B | 65.4 | – | 595 |" in text


def test_run_report_csv_keeps_full_precision(tmp_path: Path) -> None:
    frame = pd.read_csv(report().write(tmp_path, PROVENANCE).with_suffix(".csv"))
    assert list(frame.columns) == ["table", "row", "column", "value"]
    values = {(row.row, row.column): row.value for row in frame.itertuples()}
    assert values["A", "Dice mean"] == 82.2468 and values["A", "Dice seeds"] == 5
    assert values["A", "gain low"] == 11.3 and values["B", "Dice"] == 65.4
    assert ("B", "gain mean") not in values and values["B", "steps"] == 595


def test_mean_cell_of_one_value_has_no_deviation() -> None:
    assert str(mean_cell([0.5])) == "0.5" and parts_of(mean_cell([0.5])) == {
        "mean": 0.5,
        "seeds": 1,
    }
    assert str(mean_cell([1.0, 3.0], decimals=2)) == "2.00 ± 1.41"
    assert str(Interval(-0.04)) == "-0.0 (one seed)"


def test_publish_without_report_option_stays_out_of_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser(prog="python -m benchmarks.toy")
    add_report_option(parser, [])
    publish(report(), Path("out/toy.md"), parser.parse_args([]), "f" * 64)
    assert Path("out/toy.md").read_text() == report().body() == capsys.readouterr().out
    assert not Path("benchmarks").exists()
