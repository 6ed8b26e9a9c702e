r"""Tabulate scores: mean and deviation over seeds as JSON, CSV, Markdown and one HTML page.

Examples:
  python -m training.report scores-0.json scores-1.json scores-2.json --out out/report
  python -m training.report out/benchmarks/table1/*/*.json \
      --like benchmarks/paper/table1.csv --out out/table1

Scores are what training.evaluate_auto --out and benchmarks.comparison write. Files of one label are
the seeds of one row. --like takes the columns of a CSV, and its figures as cited rows. OUT then
holds table.json, table.csv, table.md and report.html, which needs no other file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import parser_of, run_command
from cpcsam.errors import CpcSamError, DataError
from reporting.scores import (
    Column,
    Picture,
    Row,
    Section,
    cited_columns,
    cited_rows,
    columns_of,
    measured_rows,
    to_csv,
    to_html,
    to_markdown,
    to_plain,
)

__all__ = ["all_columns", "main", "section_of", "write_tables"]

PROG = "python -m training.report"
NEEDED = ("label", "setting", "dice", "iou", "ap50", "classes", "minutes", "parameters")


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
        folder: to write to.
        title: of the report.
        note: definition of the figures, one paragraph.
        rows: of the table.
        columns: of the table.
        more: Markdown that follows the table.
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
        ("report.html", to_html(title, note, rows, columns, sections)),
    ):
        write_atomic(folder / name, text.encode())
    return markdown


def all_columns(runs: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Columns for every score of every measured setting, and Dice of its classes."""
    classes: dict[str, dict[str, None]] = {}
    measured: set[str] = set()
    for run in runs:
        measured.update(run)
        classes.setdefault(run["setting"], {}).update(dict.fromkeys(run["classes"]))
    return columns_of({setting: tuple(names) for setting, names in classes.items()}, measured)


def section_of(path: Path, run: Mapping[str, Any]) -> list[Section]:
    """Return the images next to a file of scores, in the folder of its name, if there are any."""
    pictures = [
        Picture(caption, picture)
        for place, caption in run.get("panels", {}).items()
        if (picture := path.with_suffix("") / f"{place}.jpg").exists()
    ]
    return [Section(f"{run['setting']}: {run['label']}", pictures)] if pictures else []


def _read(path: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(path.read_text())
        missing = [key for key in NEEDED if key not in run]
    except (OSError, ValueError, TypeError) as error:
        raise _unfit(path, f"an unreadable file ({error})") from error
    if missing:
        raise _unfit(path, f"no {', '.join(missing)}")
    return run


def _unfit(path: Path, got: str) -> CpcSamError:
    return DataError.of(
        str(path),
        got=got,
        expected="scores",
        fix="give what training.evaluate_auto --out or benchmarks.comparison wrote",
    )


def _report(args: argparse.Namespace) -> None:
    runs = {path: _read(path) for path in args.scores}
    columns = all_columns(runs.values())
    cited: list[Row] = []
    if args.like is not None:
        columns = cited_columns(args.like)
        cited = cited_rows(args.like, columns)
    markdown = write_tables(
        args.out,
        title=args.title,
        note=f"Scores in %, mean ± standard deviation over seeds; {len(runs)} runs.",
        rows=[*measured_rows(runs.values(), columns), *cited],
        columns=columns,
        sections=[section for path, run in runs.items() for section in section_of(path, run)],
    )
    print(markdown)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("scores", type=Path, nargs="+", metavar="JSON", help="files of scores")
    parser.add_argument("--like", type=Path, metavar="CSV", help="columns and cited figures")
    parser.add_argument("--title", default="Segmentation without annotators")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    return run_command(parser, _report, argv)


if __name__ == "__main__":
    sys.exit(main())
