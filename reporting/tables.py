"""Tables of scores: methods by rows, mean and standard deviation over seeds in every cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from cpcsam.errors import CpcSamError, DataError

__all__ = [
    "ALL",
    "Cell",
    "Column",
    "Row",
    "cited_columns",
    "cited_rows",
    "columns_of",
    "measured_rows",
    "to_csv",
    "to_markdown",
    "to_plain",
]


Metric = Literal["dice", "iou", "ap50", "minutes", "parameters"]

TITLES: Final[Mapping[str, str]] = {
    "dice": "Dice",
    "iou": "IoU",
    "ap50": "AP@0.5",
    "minutes": "minutes",
    "parameters": "parameters (M)",
}
ALL: Final = "all"
MEASURED: Final = "measured"
CITED: Final = "cited, not run"


@dataclass(frozen=True)
class Column:
    """What a column holds; scores are in %.

    Attributes:
        title: its heading.
        setting: the data it is measured on; `ALL` averages over all.
        of: one class or group of classes; None is the mean over the classes.
        metric: what is shown.
    """

    title: str
    setting: str
    of: str | None = None
    metric: Metric = "dice"

    @property
    def key(self) -> str:
        """Its name in CSV: setting, class where there is one, metric where it is not Dice."""
        place = self.setting if self.of is None else f"{self.setting}/{self.of}"
        return place if self.metric == "dice" else f"{place} {self.metric}"


@dataclass(frozen=True)
class Cell:
    """A figure, cited or measured.

    Attributes:
        mean: over seeds.
        std: sample standard deviation; None for one seed.
        seeds: how many; 0 where it is cited.
        decimals: shown.
    """

    mean: float
    std: float | None = None
    seeds: int = 0
    decimals: int = 1

    def __str__(self) -> str:
        """`82.2 ± 1.0`, or without the deviation."""
        spread = "" if self.std is None else f" ± {self.std:.{self.decimals}f}"
        return f"{self.mean:.{self.decimals}f}{spread}"


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        label: its title.
        source: measured, or cited and not run.
        cells: one a column, None where there is no figure.
    """

    label: str
    source: str
    cells: tuple[Cell | None, ...]


def columns_of(settings: Mapping[str, Sequence[str]]) -> tuple[Column, ...]:
    """All metrics of each setting, and Dice of each class where there are several.

    Args:
        settings: the classes of each.
    """
    columns = []
    for setting, classes in settings.items():
        lead = f"{setting}: " if len(settings) > 1 else ""
        columns += [
            Column(lead + title, setting, None, metric)  # type: ignore[arg-type]
            for metric, title in TITLES.items()
        ]
        columns += [Column(f"{lead}{name}", setting, name) for name in classes if len(classes) > 1]
    return tuple(columns)


def measured_rows(runs: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> list[Row]:
    """One row a method, in the order of their first runs.

    Args:
        runs: `label`, `setting`, `dice`, `iou`, `ap50`, `classes`, `groups` where there are any,
            `minutes` and `parameters` of each.
        columns: what to show.
    """
    of_label: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        of_label.setdefault(run["label"], []).append(run)
    return [
        Row(label, MEASURED, tuple(_cell(found, column) for column in columns))
        for label, found in of_label.items()
    ]


def _cell(runs: Sequence[Mapping[str, Any]], column: Column) -> Cell | None:
    values = [
        value
        for run in runs
        if column.setting in (run["setting"], ALL) and (value := _value(run, column)) is not None
    ]
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    decimals = 2 if column.metric in ("minutes", "parameters") else 1
    return Cell(float(np.mean(values)), std, len(values), decimals)


def _value(run: Mapping[str, Any], column: Column) -> float | None:
    if column.metric == "minutes":
        return float(run["minutes"])
    if column.metric == "parameters":
        return float(run["parameters"]) / 1e6
    parts = {**run.get("groups", {}), **run["classes"]}
    scores = run if column.of is None else parts.get(column.of)
    return None if scores is None else 100 * float(scores[column.metric])


def cited_columns(path: Path) -> tuple[Column, ...]:
    """The columns of a CSV as `cited_rows` reads it: Dice of a setting or of a class of it."""
    keys = _lines(path)[0][1:]
    parts = (key.partition("/") for key in keys)
    return tuple(
        Column(key.replace("/", " "), setting, name or None)
        for key, (setting, _, name) in zip(keys, parts, strict=True)
    )


def cited_rows(path: Path, columns: Sequence[Column]) -> list[Row]:
    """Figures of a publication that fall into some of the columns.

    Args:
        path: CSV whose first column is `method` and whose others are columns' keys; cells are
            empty, `mean` or `mean ± std`.
        columns: what to show.

    Raises:
        DataError: the file is missing or a cell is no figure.
    """
    heads, *lines = _lines(path)
    rows = []
    for line in lines:
        figures = dict(zip(heads, line, strict=True))
        cells = tuple(_cited(figures.get(column.key, ""), path) for column in columns)
        if any(cells):
            rows.append(Row(figures["method"], CITED, cells))
    return rows


def _lines(path: Path) -> list[list[str]]:
    """Cells of a CSV, each line as long as the first, whose first cell is `method`."""
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, str(error)) from error
    if not lines or lines[0][:1] != ["method"] or len({len(line) for line in lines}) != 1:
        raise _unreadable(path, "another table")
    return lines


def _unreadable(path: Path, reason: str) -> CpcSamError:
    return DataError.of(
        str(path),
        got=f"an unreadable table ({reason})",
        expected="CSV with the column method and figures like 82.2 ± 1.0",
        fix="correct the file",
    )


def _cited(text: str, path: Path) -> Cell | None:
    mean, _, std = text.partition(" ± ")
    try:
        return Cell(float(mean), float(std) if std else None) if mean else None
    except ValueError as error:
        raise _unreadable(path, text) from error


def to_markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table in Markdown."""
    heads = ["method", *(column.title for column in columns), "source"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        lines.append(_line([row.label, *(_shown(cell) for cell in row.cells), row.source]))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(cell: Cell | None) -> str:
    return "–" if cell is None else str(cell)


def to_csv(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Mean, deviation and number of seeds of every cell, in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = ("mean", "std", "seeds")
    writer.writerow(
        ["method", "source", *(f"{column.key} {part}" for column in columns for part in parts)]
    )
    for row in rows:
        values = [
            "" if cell is None or getattr(cell, part) is None else getattr(cell, part)
            for cell in row.cells
            for part in parts
        ]
        writer.writerow([row.label, row.source, *values])
    return out.getvalue()


def to_plain(rows: Sequence[Row], columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Rows as plain data for JSON, cells by their columns' keys."""
    return [
        {
            "method": row.label,
            "source": row.source,
            "cells": {
                column.key: {"mean": cell.mean, "std": cell.std, "seeds": cell.seeds}
                for column, cell in zip(columns, row.cells, strict=True)
                if cell is not None
            },
        }
        for row in rows
    ]
