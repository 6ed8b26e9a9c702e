"""Command frame: parser from the docstring, errors, exit codes, signals and argument types.

Exit codes: 0 success, 1 a missing extra, 2 a wrong argument or any error of the project, 130 after
Ctrl-C. A command reads:

    def main(argv: Sequence[str] | None = None) -> int:
        parser = parser_of(PROG, __doc__)
        parser.add_argument(...)
        return run_command(parser, _merge, argv)
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

from cpcsam.errors import CpcSamError

__all__ = [
    "ArgumentParser",
    "count",
    "count_from_0",
    "exit_code_of",
    "parser_of",
    "port",
    "positive",
    "run_command",
    "share",
    "until_interrupted",
]

EXTRAS: Final = {
    **dict.fromkeys(("PIL", "pycocotools", "tifffile", "tqdm"), "client"),
    "opentelemetry": "tracing",
}
"""Optional top-level modules and the extra that installs them."""


class ArgumentParser(argparse.ArgumentParser):
    """Parser with one-line errors, whose description and epilog keep their line breaks."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # An abbreviation that works today would break with the next similar option.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the error as a single line and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser_of(prog: str, doc: str | None) -> ArgumentParser:
    """Build a command's parser from its module's docstring.

    Args:
        prog: name of the command as users type it.
        doc: docstring of the module; its first paragraph becomes the description, the rest
            (examples, notes) the epilog.
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
        parser: of the command; its `prog` prefixes every error, unless a subparser sets another by
            `set_defaults(prog=...)`.
        work: the command itself; an int that it returns is the exit code.
        argv: arguments; None takes those of the process.

    Returns:
        The exit code; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr by default: names of files need not be UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parser.parse_args(argv)
    prog = getattr(args, "prog", parser.prog)
    try:
        return exit_code_of(lambda: work(args), prog)
    except KeyboardInterrupt:
        return _fail(130, prog, "interrupted")


def exit_code_of(command: Callable[[], int | None], prog: str) -> int:
    """Run a command; an error becomes a line on stderr and an exit code.

    Args:
        command: imports optional packages when called; an int that it returns is the exit code.
        prog: prefix of the line.
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
    """Argument type: a TCP port; 0 picks a free port."""
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


def count_from_0(text: str) -> int:
    """Argument type: a whole number of at least 0."""
    return 0 if text == "0" else count(text)


def share(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 to 1")
    return number


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Run the block until Ctrl-C, SIGTERM or SIGHUP; they unwind it and end it without an error."""
    # Container runtimes stop a process by SIGTERM, and terminals that close by SIGHUP, which nohup
    # ignores; by default both unwind nothing.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    with suppress(KeyboardInterrupt):
        yield


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes may send several
    raise KeyboardInterrupt
