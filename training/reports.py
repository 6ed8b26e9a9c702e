"""Reports on disk: one table as JSON, CSV, Markdown and a page with pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from cpcsam.artifact import write_atomic
from training.report_page import Section, page
from training.tables import Column, Row, to_csv, to_markdown, to_plain

__all__ = ["write_tables"]


def write_tables(
    folder: Path,
    *,
    title: str,
    note: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    more: str = "",
    sections: Iterable[Section] = (),
) -> str:
    """Write table.json, table.csv, table.md and report.html, each atomically.

    Args:
        folder: where.
        title: of the report.
        note: what the figures are, in one paragraph.
        rows: of the table.
        columns: of the table.
        more: Markdown to follow the table.
        sections: pictures for the page.

    Returns:
        The Markdown.
    """
    markdown = f"{note}\n\n{to_markdown(rows, columns)}{more}"
    document = {"title": title, "note": note, "rows": to_plain(rows, columns)}
    for name, text in (
        ("table.json", json.dumps(document, indent=1) + "\n"),
        ("table.csv", to_csv(rows, columns)),
        ("table.md", markdown),
        ("report.html", page(title, note, rows, columns, sections)),
    ):
        write_atomic(folder / name, text.encode())
    return markdown
