"""Output options of benchmarks: results go to out/, and reports into the tree on request."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cpcsam.artifacts.manifest import write_atomic
from reporting.run_report import REPORTS, RunReport, current_provenance

__all__ = ["OUT", "add_report_option", "command_of", "publish", "write_json"]

OUT: Final = Path("out/benchmarks")
"""Folder of results that stay out of the tree, below the working directory."""


def add_report_option(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
    """Add `--report`, which `publish` reads, and keep the command line for the report."""
    parser.add_argument(
        "--report", action="store_true", help=f"write {REPORTS}/NAME.md and NAME.csv as well"
    )
    parser.set_defaults(command=command_of(parser.prog, argv))


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, atomically."""
    write_atomic(path, (json.dumps(result, indent=2) + "\n").encode())


def publish(
    report: RunReport, markdown: Path, args: argparse.Namespace, base: str | None = None
) -> None:
    """Print a report, write it as Markdown and, with `--report`, into `REPORTS`.

    Args:
        report: of the run.
        markdown: file of the run's own copy.
        args: options of a parser with `add_report_option`.
        base: SHA-256 of the base checkpoint.
    """
    body = report.body()
    write_atomic(markdown, body.encode())
    print(body, end="")
    if args.report:
        path = report.write(REPORTS, current_provenance(args.command, base))
        print(f"wrote {path}", file=sys.stderr)


def command_of(prog: str, argv: Sequence[str] | None) -> list[str]:
    """Return the command line; absolute paths, which differ by machine, become PATH.

    Args:
        prog: name of the command.
        argv: arguments; None takes those of the process.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return [prog, *(re.sub(r"(^|=)/.*", r"\1PATH", argument) for argument in arguments)]
