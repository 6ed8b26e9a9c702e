"""Provenance of a run, whose commit comes from git."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.output import add_report_option, publish
from cpcsam.commands import ArgumentParser
from reporting.run_report import RunReport, Table, current_provenance, machine_of
from reporting.tables import Cell


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
