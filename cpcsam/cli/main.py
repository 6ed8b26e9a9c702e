"""Command line: segment images, teach classes, and see whether the server is well."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cpcsam
from cpcsam.cli import classes as cli_classes
from cpcsam.cli import segment as cli_segment
from cpcsam.cli import status as cli_status
from cpcsam.commands import ArgumentParser, exit_code_of

__all__ = ["main"]

EXAMPLES = """\
examples:
  cpcsam status
  cpcsam segment cells.png --click 120,80
  cpcsam segment photos/ --everything --out out
  cpcsam classes add nucleus --example cells.png cells-labels.png
  cpcsam segment photos/ --class nucleus --out out"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when done, 1 if a package is missing, 2 after an error, told in one line, 3 where some
        images failed, told in one line each, 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    try:
        return exit_code_of(lambda: args.run(args), f"cpcsam {args.command}")
    except KeyboardInterrupt:
        sys.stderr.write(f"cpcsam {args.command}: interrupted\n")
        return 130


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="cpcsam",
        description="Segment images through a running CPC-SAM gateway.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (cli_segment, cli_status, cli_classes):
        command.add_to(commands)
    return parser
