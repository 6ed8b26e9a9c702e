"""Report of the GPU measurements: statuses, and a table of every stage with shares of the limits.

The limits are what the environment stage measured on the same machine: the copy bandwidth, and the
rate of matrix products in each dtype. A record with `dtype` and `rate_tflops`, or `tflop` (of an
image) and `images_per_s`, gets its share of the latter, one with `moved_gbps` its share of the
former.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.process import RESULTS
from reporting.run_report import RunReport, Table
from reporting.tables import Cell

__all__ = ["ENVIRONMENT", "read_results", "report_of"]

Record = Mapping[str, Any]

ENVIRONMENT: Final = "environment"
RATE: Final = "rate_tflops"
BANDWIDTH: Final = "moved_gbps"
RATE_SHARE: Final = "of the measured rate"
BANDWIDTH_SHARE: Final = "of the copy bandwidth"
UNITS: Final = {"gbps": "GB/s", "gib": "GiB", "mib": "MiB", "ms": "ms", "tflops": "TFLOP/s",
                "us": "µs", "w": "W", "mhz": "MHz", "kib": "KiB", "s": "s"}  # fmt: skip
EXACT: Final = "iou"
"""Part of the keys whose figures lie so close to 1 that they are shown with more digits."""
OPERATIONS: Final = "tflop"
IMAGES: Final = "images_per_s"
SKIPPED: Final = "skipped"
HIDDEN: Final = ("stage", "case", "t_s")
SHARED_KEYS: Final = 0.5
"""Part of a record's keys that a table must have for the record to join it."""


def read_results(out: Path) -> list[dict[str, Any]]:
    """Read all records and statuses of a run; empty before the first.

    Args:
        out: folder of the run.
    """
    file = out / RESULTS
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def report_of(results: Sequence[Record], quick: bool = False) -> RunReport:
    """Make the report of a run, which need not have ended.

    Args:
        results: as `read_results` returns them.
        quick: whether the sizes were those of `--quick`.
    """
    statuses = [record for record in results if "status" in record]
    measured = [record for record in results if "status" not in record]
    names = list(dict.fromkeys(record["stage"] for record in results))
    of_stage = {name: [r for r in measured if r["stage"] == name] for name in names}
    limits = _limits(of_stage.get(ENVIRONMENT, []))
    tables = [_status_table(statuses, of_stage)]
    for name, records in of_stage.items():
        records = [_with_shares(r, limits) if name != ENVIRONMENT else r for r in records]
        tables += _tables(name, [record for record in records if SKIPPED not in record])
    skipped = [record for record in measured if SKIPPED in record]
    if skipped:
        heads = ["stage", "case", "reason"]
        rows = [[record["stage"], _case(record), _text(record[SKIPPED])] for record in skipped]
        tables.append(Table("Not measured", heads, rows))
    note = (
        "Figures of one run on one machine; times are medians. Shares are of the limits that the "
        "environment stage measured in the same run."
    )
    if quick:
        note += " Sizes were those of `--quick`: the figures show that the code runs, and no more."
    return RunReport("report", "GPU measurements", note, tables)


def _limits(records: Iterable[Record]) -> dict[str, float]:
    """Return the measured limits: by dtype those of `RATE`, and that of `BANDWIDTH`."""
    limits: dict[str, float] = {}
    for record in records:
        if RATE in record:
            limits[record["dtype"]] = max(record[RATE], limits.get(record["dtype"], 0))
        if record.get("case") == "copy":
            limits[BANDWIDTH] = record[BANDWIDTH]
    return limits


def _with_shares(record: Record, limits: Mapping[str, float]) -> dict[str, Any]:
    shares: dict[str, float] = {}
    if OPERATIONS in record and IMAGES in record:
        record = {**record, RATE: record[OPERATIONS] * record[IMAGES]}
    for key, limit, share in (
        (RATE, record.get("dtype", ""), RATE_SHARE),
        (BANDWIDTH, BANDWIDTH, BANDWIDTH_SHARE),
    ):
        if record.get(key) and limits.get(limit):
            shares[share] = record[key] / limits[limit]
    return {**record, **shares}


def _status_table(statuses: Sequence[Record], of_stage: Mapping[str, Sequence[Record]]) -> Table:
    rows = [
        [
            status["stage"],
            status["status"],
            _cell(status.get("seconds")),
            len(of_stage[status["stage"]]),
            _text(status["reason"]) if "reason" in status else None,
        ]
        for status in statuses
    ]
    return Table("Stages", ["stage", "status", "s", "records", "reason"], rows)


def _tables(stage: str, records: Sequence[Record]) -> list[Table]:
    """Make the tables of a stage: records with much the same keys share one."""
    groups: list[tuple[list[str], list[Record]]] = []
    for record in records:
        keys = [key for key in record if key not in HIDDEN]
        for columns, members in groups:
            if len({*keys} & {*columns}) >= SHARED_KEYS * min(len(keys), len(columns)):
                columns += [key for key in keys if key not in columns]
                members.append(record)
                break
        else:
            groups.append((keys, [record]))
    return [
        Table(
            stage.capitalize() + (f", part {number}" if number > 1 else ""),
            ["case", *map(_head, columns)],
            [[_case(r), *(_cell(r.get(key), key) for key in columns)] for r in members],
        )
        for number, (columns, members) in enumerate(groups, start=1)
    ]


def _case(record: Record) -> str:
    """Name of a record's row: its case, or else all of its texts."""
    words = [value for key, value in record.items() if isinstance(value, str) and key != "stage"]
    return _text(record.get("case", ", ".join(words)))


def _head(key: str) -> str:
    """Title of a column: `peak_gib` becomes `peak (GiB)`."""
    words = key.replace("_per_s", "/s").split("_")
    if len(words) > 1 and words[-1] in UNITS:
        return f"{' '.join(words[:-1])} ({UNITS[words[-1]]})"
    return " ".join(words)


def _cell(value: Any, key: str = "") -> object:
    """Show a float with three or four significant digits, and anything else in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        digits = 0 if value == 0 else 2 - math.floor(math.log10(abs(value)))
        if EXACT in key.split("_"):
            digits = 4
        return Cell(value, decimals=min(max(digits, 0), 6))
    return value if value is None or isinstance(value, int) else _text(value)


def _text(value: object) -> str:
    return " ".join(str(value).replace("|", "/").split())
