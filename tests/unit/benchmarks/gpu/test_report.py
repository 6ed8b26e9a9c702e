"""Time is granted by cap and priority, and the report shows shares of the measured limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.process import RESULTS, append
from benchmarks.gpu.report import read_results, report_of
from benchmarks.gpu.stage import Stage, grant
from benchmarks.gpu.stages import STAGES

LIMITS = [
    {"stage": "environment", "case": "copy", "copy_ms": 1.0, "moved_gbps": 2000.0},
    {"stage": "environment", "case": "product", "dtype": "bfloat16", "rate_tflops": 800.0},
    {"stage": "environment", "case": "product", "dtype": "tf32", "rate_tflops": 400.0},
    {"stage": "environment", "status": "done", "seconds": 12.3},
]


def rows_of(title: str, results: list[dict[str, object]]) -> list[dict[str, str]]:
    """The rows of a table as they are shown, by column."""
    [table] = [table for table in report_of(results).tables if table.title == title]
    return [dict(zip(table.heads, map(str, row), strict=True)) for row in table.rows]


def stage(cap_s: float, priority: int) -> Stage:
    return Stage("a", cap_s, priority, "")


def test_grant_with_time_to_spare_is_the_cap() -> None:
    assert grant(stage(60, 2), [stage(100, 1)], 200) == 60


def test_grant_leaves_the_caps_of_more_important_stages() -> None:
    assert grant(stage(60, 2), [stage(100, 1), stage(500, 3)], 130) == 30


def test_grant_of_too_little_is_none() -> None:
    assert grant(stage(60, 2), [stage(100, 1)], 105) is None
    assert grant(stage(60, 2), [], 0) is None


def test_grant_of_a_short_stage_needs_its_cap_only() -> None:
    assert grant(stage(5, 2), [], 6) == 5


def test_grants_of_the_plan_are_the_caps_and_leave_time_for_pretraining() -> None:
    left, granted = 540.0, {}
    for number, planned in enumerate(STAGES, start=1):
        granted[planned.name] = grant(planned, STAGES[number:], left)
        left -= granted[planned.name] or 0
    assert all(granted[planned.name] == planned.cap_s for planned in STAGES[:-1])
    assert left == 0 and (granted["pretraining"] or 0) >= 30


def test_plan_has_ten_distinct_stages() -> None:
    names = [planned.name for planned in STAGES]
    assert len({*names}) == 10 and names[0] == "environment" and names[-1] == "pretraining"


def test_report_divides_rates_by_the_rate_of_their_dtype() -> None:
    figures = {"stage": "encoder", "case": "a", "dtype": "bfloat16", "rate_tflops": 200.0}
    implied = {"stage": "encoder", "case": "b", "dtype": "tf32", "tflop": 2.0, "images_per_s": 100}
    first, second = rows_of("Encoder", [*LIMITS, figures, implied])
    assert first["of the measured rate"] == "0.250"
    assert (second["rate (TFLOP/s)"], second["of the measured rate"]) == ("200", "0.500")


def test_report_divides_bandwidths_and_leaves_the_limits_as_they_are() -> None:
    moved = {"stage": "decoder", "case": "a", "moved_gbps": 1000.0}
    [row] = rows_of("Decoder", [*LIMITS, moved])
    assert row["of the copy bandwidth"] == "0.500"
    assert "of the copy bandwidth" not in rows_of("Environment", LIMITS)[0]


def test_report_without_limits_has_no_shares() -> None:
    figures = {"stage": "encoder", "case": "a", "dtype": "bfloat16", "rate_tflops": 200.0}
    assert rows_of("Encoder", [figures]) == [
        {"case": "a", "dtype": "bfloat16", "rate (TFLOP/s)": "200"}
    ]


def test_report_names_what_was_not_measured() -> None:
    results = [
        *LIMITS,
        {"stage": "jpeg", "case": "nvJPEG", "skipped": "no GPU"},
        {"stage": "jpeg", "status": "overran", "seconds": 20.0, "reason": "killed | after\n20 s"},
    ]
    assert rows_of("Not measured", results) == [
        {"stage": "jpeg", "case": "nvJPEG", "reason": "no GPU"}
    ]
    assert rows_of("Stages", results)[1]["reason"] == "killed / after 20 s"


def test_report_groups_records_by_their_keys() -> None:
    results = [
        {"stage": "decoder", "case": "a", "call_ms": 1.0, "prompts": 1},
        {"stage": "decoder", "case": "b", "call_ms": 2.0, "prompts": 2, "peak_gib": 0.5},
        {"stage": "decoder", "case": "c", "differing": 0, "equal": True},
    ]
    assert [row["case"] for row in rows_of("Decoder", results)] == ["a", "b"]
    assert rows_of("Decoder, part 2", results) == [{"case": "c", "differing": "0", "equal": "yes"}]


def test_report_shows_iou_with_four_digits_and_records_without_case_by_their_texts() -> None:
    [row] = rows_of("Accuracy", [{"stage": "accuracy", "form": "folded", "iou_min": 0.99871}])
    assert row == {"case": "folded", "form": "folded", "iou min": "0.9987"}


def test_results_are_read_as_they_were_appended(tmp_path: Path) -> None:
    assert read_results(tmp_path) == []
    for record in LIMITS:
        append(tmp_path, record)
    assert read_results(tmp_path) == LIMITS


def test_command_with_unknown_stage_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path), "--stages", "warp"])
    assert "invalid choice: 'warp'" in capsys.readouterr().err


def test_command_refuses_a_folder_with_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(tmp_path, {"stage": "jpeg"})
    assert main(["--out", str(tmp_path)]) == 2
    assert re.search(f"--out: got .*{RESULTS}.*give another", capsys.readouterr().err)
