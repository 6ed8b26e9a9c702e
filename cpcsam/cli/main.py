"""Command line of the client: segment images, manage classes, show the server's status."""

from __future__ import annotations

from collections.abc import Sequence

import cpcsam
from cpcsam.cli import classes as cli_classes
from cpcsam.cli import segment as cli_segment
from cpcsam.cli import status as cli_status
from cpcsam.commands import ArgumentParser, run_command

__all__ = ["main"]

EXAMPLES = """\
examples:
  cpcsam status
  cpcsam segment cells.png --click 120,80
  cpcsam segment photos/ --everything --out out
  cpcsam classes add nucleus --example cells.png cells-labels.png
  cpcsam segment photos/ --class nucleus --out out"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Returns:
        0 on success, 1 if a package is missing, 2 after an error, 3 if some images failed (each
        failure is a line on stderr), 130 after Ctrl-C.
    """
    return run_command(_parser(), lambda args: args.run(args), argv)


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
    for subparser in commands.choices.values():
        subparser.set_defaults(prog=subparser.prog)
    return parser
