"""Reports of benchmark runs: NAME.md for readers, NAME.csv with all figures in full precision."""

from __future__ import annotations

import io
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pandas as pd

from cpcsam.artifacts.manifest import write_atomic
from reporting.tables import markdown_table, parts_of

__all__ = ["REPORTS", "Provenance", "RunReport", "Table", "current_provenance", "machine_of"]

REPORTS: Final = Path("benchmarks/reports")
"""Folder of the reports that the documentation quotes, in the checkout."""


@dataclass(frozen=True)
class Provenance:
    """Origin of a report's figures.

    Attributes:
        command: that measured them.
        commit: of the code.
        date: of the run, YYYY-MM-DD.
        machine: processor and cores.
        base: SHA-256 of the base checkpoint, or its beginning; None without one.
    """

    command: str
    commit: str
    date: str
    machine: str
    base: str | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Name and text of each, in Markdown."""
        lines = [
            ("command", f"`{self.command}`"),
            ("commit", self.commit),
            ("date", self.date),
            ("machine", self.machine),
        ]
        return lines if self.base is None else [*lines, ("base", f"`{self.base[:12]}`")]


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: its heading; empty in a report of one table.
        heads: titles of the columns; the first names the row.
        rows: cells, as many as there are titles.
        note: paragraph under it.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def markdown(self) -> str:
        """The table alone, in Markdown."""
        return markdown_table(self.heads, self.rows)

    def figures(self) -> list[dict[str, object]]:
        """Every figure as `table`, `row`, `column` and `value`, in full precision."""
        return [
            {
                "table": self.title,
                "row": str(row[0]),
                "column": f"{head} {suffix}".strip(),
                "value": value,
            }
            for row in self.rows
            for head, cell in zip(self.heads[1:], row[1:], strict=True)
            for suffix, value in parts_of(cell).items()
        ]


@dataclass(frozen=True)
class RunReport:
    """Report of a benchmark.

    Attributes:
        name: of its files.
        title: of the page.
        note: definition of the figures, one paragraph.
        tables: of figures.
        plots: PNG files by caption, at most two.
    """

    name: str
    title: str
    note: str
    tables: Sequence[Table]
    plots: Mapping[str, bytes] = field(default_factory=dict)

    def body(self) -> str:
        """Note and tables in Markdown."""
        parts = [f"{self.note}\n"] if self.note else []
        for table in self.tables:
            parts += [f"### {table.title}\n"] if table.title else []
            parts.append(table.markdown())
            parts += [f"{table.note}\n"] if table.note else []
        return "\n".join(parts)

    def write(self, folder: Path, provenance: Provenance) -> Path:
        """Write NAME.md, NAME.csv and NAME-KEY.png of every plot, each atomically.

        Args:
            folder: of the reports.
            provenance: shown at the top.

        Returns:
            The Markdown file.
        """
        lines = [f"# {self.title}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {text} |" for name, text in provenance.rows()]
        for key, plot in self.plots.items():
            file = f"{self.name}-{key}.png"
            write_atomic(folder / file, plot)
            lines += ["", f"![{key}]({file})"]
        path = folder / f"{self.name}.md"
        write_atomic(path, ("\n".join(lines) + f"\n\n{self.body()}").encode())
        figures = [figure for table in self.tables for figure in table.figures()]
        csv = io.StringIO()
        columns = ["table", "row", "column", "value"]
        # object, as a column of mixed figures would turn integers into floats.
        pd.DataFrame(figures, columns=columns, dtype=object).to_csv(
            csv, index=False, lineterminator="\n"
        )
        write_atomic(path.with_suffix(".csv"), csv.getvalue().encode())
        return path


def machine_of() -> str:
    """This machine's processor and the cores that this process may use."""
    names = [platform.machine()]
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                names.append(line.partition(":")[2].strip())
                break
    return f"{', '.join(names)}, {len(os.sched_getaffinity(0))} cores"


def current_provenance(command: Sequence[str], base: str | None = None) -> Provenance:
    """Provenance of a run of this moment, at the checkout's commit.

    Args:
        command: program and its arguments.
        base: SHA-256 of the base checkpoint.
    """
    return Provenance(
        " ".join(command),
        _commit(),
        datetime.now(UTC).date().isoformat(),
        machine_of(),
        base,
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # Untracked files, such as results, are no change of the code.
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=7", "HEAD") + (" with local changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "not recorded"
