"""Put scores together: mean and deviation over seeds as JSON, CSV, Markdown and one page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.errors import CpcSamError, DataError
from reporting.html import Picture, Section, page
from reporting.tables import (
    Column,
    Row,
    cited_columns,
    cited_rows,
    columns_of,
    measured_rows,
    to_csv,
    to_markdown,
    to_plain,
)

__all__ = ["all_columns", "main", "section_of", "write_tables"]

PROG = "python -m training.report"
EXAMPLES = """examples:
  python -m training.report scores-0.json scores-1.json scores-2.json --out out/report
  python -m training.report benchmarks/results/table1/*/*.json --like benchmarks/paper/table1.csv \\
      --out out/table1

Scores are what training.evaluate_auto --out and benchmarks.comparison write. Files of one label are
the seeds of one row. --like takes the columns of a CSV, and its figures as cited rows. OUT then
holds table.json, table.csv, table.md and report.html, which needs no other file.
"""
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


def all_columns(runs: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Every score of every setting that was run, and Dice of its classes."""
    classes: dict[str, dict[str, None]] = {}
    for run in runs:
        classes.setdefault(run["setting"], {}).update(dict.fromkeys(run["classes"]))
    return columns_of({setting: tuple(names) for setting, names in classes.items()})


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


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("scores", type=Path, nargs="+", metavar="JSON", help="files of scores")
    parser.add_argument("--like", type=Path, metavar="CSV", help="columns and cited figures")
    parser.add_argument("--title", default="Segmentation without annotators")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    options = parser.parse_args(arguments)

    def command() -> None:
        runs = {path: _read(path) for path in options.scores}
        columns = all_columns(runs.values())
        cited: list[Row] = []
        if options.like is not None:
            columns = cited_columns(options.like)
            cited = cited_rows(options.like, columns)
        markdown = write_tables(
            options.out,
            title=options.title,
            note=f"Scores in %, mean ± standard deviation over seeds; {len(runs)} runs.",
            rows=[*measured_rows(runs.values(), columns), *cited],
            columns=columns,
            sections=[one for path, run in runs.items() for one in section_of(path, run)],
        )
        print(markdown)

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
