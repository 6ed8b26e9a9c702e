"""Command frame: a parser from the docstring, one-line errors, exit codes and argument types.

Exit codes: 0 success, 1 a missing extra, 2 a wrong argument or any error of the project, 130 after
Ctrl-C. A command reads:

    def main(argv: Sequence[str] | None = None) -> int:
        parser = parser_of(PROG, __doc__)
        parser.add_argument(...)
        return run_command(parser, _merge, argv)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from cpcsam.errors import CpcSamError

__all__ = [
    "ArgumentParser",
    "count",
    "exit_code_of",
    "parser_of",
    "port",
    "positive",
    "run_command",
    "share",
]

EXTRAS: Final = {"PIL": "client", "pycocotools": "client", "tqdm": "client"}
"""Modules that an extra brings, and the extra."""


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are one line; its description and epilog keep their line breaks."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser_of(prog: str, doc: str | None) -> ArgumentParser:
    """Make a command's parser from its module's docstring.

    Args:
        prog: name of the command, as users type it.
        doc: the docstring; its first paragraph describes the command, the rest (examples, notes)
            is shown below the options.
    """
    description, _, epilog = (doc or "").removeprefix("Command: ").partition("\n\n")
    return ArgumentParser(prog=prog, description=description, epilog=epilog)


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the arguments, run the command and return its exit code.

    Args:
        parser: of the command; its `prog` begins every error.
        work: the command; a number it returns is the exit code.
        argv: arguments; None takes those of the process.
    """
    args = parser.parse_args(argv)
    try:
        return exit_code_of(lambda: work(args), parser.prog)
    except KeyboardInterrupt:
        return _fail(130, parser.prog, "interrupted")


def exit_code_of(command: Callable[[], int | None], prog: str) -> int:
    """Run a command's work; a failure becomes one line on stderr and an exit code.

    Args:
        command: the work; whatever it imports of an extra, it imports when called. Where it
            returns a number, that is the exit code.
        prog: name to begin the line with.
    """
    try:
        return command() or 0
    except CpcSamError as error:
        return _fail(2, prog, str(error))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(1, prog, f"{error.name} is not installed; pip install 'cpcsam[{extra}]'")
    except OSError as error:
        return _fail(2, prog, f"{error.filename or 'a file'}: {error.strerror or error}")


def _fail(code: int, prog: str, message: str) -> int:
    sys.stderr.write(f"{prog}: {' '.join(message.split())}\n")
    return code


def port(text: str) -> int:
    """Argument type: a TCP port; 0 takes a free one."""
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a port from 0 to 65535")
    return number


def positive(text: str) -> float:
    """Argument type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number above 0")
    return number


def count(text: str) -> int:
    """Argument type: a whole number above 0."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number above 0")
    return int(text)


def share(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 to 1")
    return number
