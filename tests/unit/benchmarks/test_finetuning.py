"""The benchmark of fine-tuning: its runs and its report."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.finetuning import _runs, report_of
from tests.support.paths import ROOT


def row(name: str, seed: int, base: float, tuned: float) -> dict[str, object]:
    clicks = {"accurate": base, "careless": base - 0.1}, {"accurate": tuned, "careless": base}
    scores = dict(zip(("base", "run"), clicks, strict=True))
    return {"set": name, "seed": seed, "window": None, "entities": 70, **scores}


def test_the_report_pairs_runs_with_the_base_by_seed() -> None:
    rows = [row("a", 0, 0.5, 0.52), row("a", 1, 0.6, 0.66), row("b", 0, 0.4, 0.39)]
    result = {"base_sha256": "0" * 64, "machine": "m", "minutes": 10.0, "shots": 4, "rows": rows}
    report = report_of(result)
    assert report.name == "finetuning-4"
    [a, b] = report.tables[0].rows
    assert [str(cell) for cell in a[:6]] == ["a, 4 images", "whole", "70", "2", "55.0", "59.0"]
    # Differences of 2 and 6: mean 4, half of the interval 12.71 times the standard error of 2.
    assert str(a[6]) == "+4.0 [-21.4, +29.4]" and str(a[7]) == "2.0"
    assert str(b[6]) == "-1.0 (one seed)" and str(b[7]) == "-1.0"


def test_runs_follow_the_recipe_and_differ_by_seed(tmp_path: Path) -> None:
    options = argparse.Namespace(
        seeds=2,
        set=[("coco", ROOT / "benchmarks/photographs")],
        shots=4,
        minutes=3.0,
        base=ROOT / "weights/vit_t",
        override=["optimizer.lr=1e-4"],
        out=tmp_path,
    )
    first, second = _runs(options)
    assert (
        first.config.name == "photographs-4-0" and first.path == tmp_path / "photographs-4-0.json"
    )
    assert first.config.find_scale and first.config.optimizer.lr == pytest.approx(1e-4)
    assert (first.config.data.train.shots, first.config.max_minutes) == (4, 3.0)
    assert (second.config.seed, second.config.data.train.seed) == (1, 1)
    assert first.configuration() != second.configuration()
