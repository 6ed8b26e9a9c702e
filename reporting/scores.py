"""Tables of segmentation scores: a row a method, mean ± standard deviation over seeds."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from cpcsam.errors import CpcSamError, DataError
from reporting.html import data_uri, render_page
from reporting.tables import Cell, markdown_table, mean_cell

__all__ = [
    "ALL",
    "Column",
    "Picture",
    "Row",
    "Section",
    "cited_columns",
    "cited_rows",
    "columns_of",
    "measured_rows",
    "to_csv",
    "to_html",
    "to_markdown",
    "to_plain",
]

Metric = Literal["dice", "iou", "ap50", "minutes", "parameters", "image_seconds", "peak_bytes"]

TITLES: Final[Mapping[str, str]] = {
    "dice": "Dice",
    "iou": "IoU",
    "ap50": "AP@0.5",
    "minutes": "minutes",
    "parameters": "parameters (M)",
    "image_seconds": "seconds an image",
    "peak_bytes": "peak memory (GB)",
}
COST_UNITS: Final = {"minutes": 1, "parameters": 1e6, "image_seconds": 1, "peak_bytes": 1e9}
ALL: Final = "all"
MEASURED: Final = "measured"
CITED: Final = "cited, not run"


@dataclass(frozen=True)
class Column:
    """Definition of a column; scores are in %.

    Attributes:
        title: its heading.
        setting: the data it is measured on; `ALL` averages over all.
        of: a class or group of classes; None is the mean over the classes.
        metric: the figure.
    """

    title: str
    setting: str
    of: str | None = None
    metric: Metric = "dice"

    @property
    def key(self) -> str:
        """Its name in CSV: setting, class if there is one, metric unless it is Dice."""
        place = self.setting if self.of is None else f"{self.setting}/{self.of}"
        return place if self.metric == "dice" else f"{place} {self.metric}"


@dataclass(frozen=True)
class Row:
    """Scores of a method.

    Attributes:
        label: its title.
        source: measured, or cited and not run.
        cells: in the order of the columns, None if there is no figure.
    """

    label: str
    source: str
    cells: tuple[Cell | None, ...]

    @property
    def measured(self) -> bool:
        """Whether any figure was measured here."""
        return any(cell is not None and cell.seeds for cell in self.cells)


@dataclass(frozen=True)
class Picture:
    """An image file (PNG or JPEG) and its caption."""

    caption: str
    path: Path


@dataclass(frozen=True)
class Section:
    """A heading with pictures."""

    title: str
    pictures: Sequence[Picture] = ()


def columns_of(
    settings: Mapping[str, Sequence[str]], metrics: Collection[str] = tuple(TITLES)
) -> tuple[Column, ...]:
    """All metrics of each setting, and Dice of each class if there are several.

    Args:
        settings: the classes of each.
        metrics: that were measured.
    """
    columns = []
    for setting, classes in settings.items():
        lead = f"{setting}: " if len(settings) > 1 else ""
        columns += [
            Column(lead + TITLES[metric], setting, None, metric)  # type: ignore[arg-type]
            for metric in filter(metrics.__contains__, TITLES)
        ]
        columns += [Column(f"{lead}{name}", setting, name) for name in classes if len(classes) > 1]
    return tuple(columns)


def measured_rows(runs: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> list[Row]:
    """Average runs over seeds: a row a method, in the order of their first runs.

    Args:
        runs: label, setting, dice, iou, ap50, classes, and groups and costs if any, of each.
        columns: of the table.
    """
    of_label: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        of_label.setdefault(run["label"], []).append(run)
    return [
        Row(label, MEASURED, tuple(_cell(same, column) for column in columns))
        for label, same in of_label.items()
    ]


def _cell(runs: Sequence[Mapping[str, Any]], column: Column) -> Cell | None:
    values = [
        value
        for run in runs
        if column.setting in (run["setting"], ALL) and (value := _value(run, column)) is not None
    ]
    return mean_cell(values, 2 if column.metric in COST_UNITS else 1) if values else None


def _value(run: Mapping[str, Any], column: Column) -> float | None:
    if column.metric in COST_UNITS:
        return (
            float(run[column.metric]) / COST_UNITS[column.metric] if column.metric in run else None
        )
    parts = {**run.get("groups", {}), **run["classes"]}
    scores = run if column.of is None else parts.get(column.of)
    return None if scores is None else 100 * float(scores[column.metric])


def cited_columns(path: Path) -> tuple[Column, ...]:
    """The columns of a CSV as `cited_rows` reads it: Dice of a setting or of a class of it."""
    keys = [str(key) for key in _read(path).columns[1:]]
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
        columns: of the table.

    Raises:
        DataError: the file is missing or a cell is not a figure.
    """
    rows = []
    for figures in _read(path).to_dict("records"):
        cells = tuple(_cited(figures.get(column.key, ""), path) for column in columns)
        if any(cells):
            rows.append(Row(figures["method"], CITED, cells))
    return rows


def _read(path: Path) -> pd.DataFrame:
    """Cells of a CSV as text."""
    try:
        # An empty cell, or a method called NA, is text as well.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if frame.columns[0] != "method" or frame.isna().any(axis=None):
        raise _unreadable(path, "another table")
    return frame


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
    """The table in Markdown."""
    heads = ["method", *(column.title for column in columns), "source"]
    return markdown_table(heads, ((row.label, *row.cells, row.source) for row in rows))


def to_csv(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Mean, deviation and number of seeds of every cell, in columns of their own."""
    lines = [
        {
            "method": row.label,
            "source": row.source,
            **{
                f"{column.key} {part}": None if cell is None else getattr(cell, part)
                for column, cell in zip(columns, row.cells, strict=True)
                for part in ("mean", "std", "seeds")
            },
        }
        for row in rows
    ]
    out = io.StringIO()
    # object, as gaps would turn columns of integers into floats.
    pd.DataFrame(lines, dtype=object).to_csv(out, index=False, lineterminator="\n")
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


def to_html(
    title: str,
    note: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    sections: Iterable[Section] = (),
) -> str:
    """The table and the pictures as a page, images embedded.

    The best measured figure of a column is bold; cited rows are grey.

    Args:
        title: of the page.
        note: the paragraph under it.
        rows: of the table.
        columns: of the table.
        sections: pictures; each shows image, truth and prediction.
    """
    return render_page(
        "scores",
        title=title,
        note=note,
        rows=rows,
        columns=columns,
        best=_best(rows, columns),
        sections=sections,
        data_uri=data_uri,
    )


def _best(rows: Sequence[Row], columns: Sequence[Column]) -> list[float | None]:
    """The highest measured score of each column; None for costs."""
    best: list[float | None] = []
    for index, column in enumerate(columns):
        means = [cell.mean for row in rows if (cell := row.cells[index]) is not None and cell.seeds]
        best.append(max(means) if means and column.metric not in COST_UNITS else None)
    return best
