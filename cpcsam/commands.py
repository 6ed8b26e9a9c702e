"""What the commands share: one-line errors, exit codes and argument types.

Exit codes: 0 success, 1 a missing extra, 2 a wrong argument or any error of the project.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from cpcsam.errors import CpcSamError

__all__ = ["ArgumentParser", "count", "exit_code_of", "port", "positive", "share"]

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


def exit_code_of(command: Callable[[], int | None], prog: str) -> int:
    """Run a command's work and tell its failure in one line on stderr.

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
