"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reporting.cells import shown

__all__ = ["markdown_table"]


def markdown_table(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Render a table, one line a row.

    `DataFrame.to_markdown` pads every cell to the width of its column, so that one changed figure
    changes every line of a committed report.

    Args:
        heads: titles of the columns.
        rows: cells, as many as there are titles.
    """
    lines = [heads, ["---"] * len(heads), *([shown(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
