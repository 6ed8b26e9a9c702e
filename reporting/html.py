"""A report on one page that needs no other file: tables and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reporting.tables import Column, Row

__all__ = ["Picture", "Section", "page"]

STYLE = """
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem }
 table { border-collapse: collapse; font-variant-numeric: tabular-nums }
 .wide { overflow-x: auto }
 th, td { padding: .15rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
 th:first-child, td:first-child { text-align: left; white-space: nowrap }
 .cited { color: #777; font-style: italic } td.top { font-weight: 700 }
 figure { display: inline-block; margin: .4rem 1rem .8rem 0 } figcaption { font-size: .85rem }
 img { max-width: 100%; display: block }
"""


@dataclass(frozen=True)
class Picture:
    """An image file and what it shows."""

    caption: str
    path: Path


@dataclass(frozen=True)
class Section:
    """A heading with pictures."""

    title: str
    pictures: Sequence[Picture] = field(default_factory=tuple)


def page(
    title: str,
    note: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    sections: Iterable[Section] = (),
) -> str:
    """HTML with the table and the pictures, each embedded.

    The best measured figure of a column is bold; cited rows are grey.

    Args:
        title: of the page.
        note: under it.
        rows: of the table.
        columns: of the table.
        sections: pictures; each shows image, truth and prediction.
    """
    heads = "".join(
        f"<th>{html.escape(text)}</th>"
        for text in ("method", *(column.title for column in columns), "source")
    )
    body = "".join(_row(row, _best(rows, columns)) for row in rows)
    shown = "".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(note)}</p>
<div class="wide"><table><tr>{heads}</tr>{body}</table></div>
{shown}
</html>
"""


def _best(rows: Sequence[Row], columns: Sequence[Column]) -> list[float | None]:
    """The highest measured score of each column; None where less is not worse."""
    best: list[float | None] = []
    for index, column in enumerate(columns):
        means = [cell.mean for row in rows if (cell := row.cells[index]) is not None and cell.seeds]
        scored = column.metric in ("dice", "iou", "ap50")
        best.append(max(means) if means and scored else None)
    return best


def _row(row: Row, best: Sequence[float | None]) -> str:
    cells = "".join(
        "<td>–</td>"
        if cell is None
        else f"<td{' class=top' if cell.seeds and cell.mean == top else ''}>{cell}</td>"
        for cell, top in zip(row.cells, best, strict=True)
    )
    kind = "" if any(cell is not None and cell.seeds for cell in row.cells) else " class=cited"
    label, source = html.escape(row.label), html.escape(row.source)
    return f"<tr{kind}><td>{label}</td>{cells}<td>{source}</td></tr>"


def _section(section: Section) -> str:
    figures = "".join(
        f"<figure><img alt='image, truth, prediction' src='{_embedded(picture.path)}'>"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for picture in section.pictures
    )
    return f"<h2>{html.escape(section.title)}</h2>\n{figures}\n"


def _embedded(path: Path) -> str:
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
