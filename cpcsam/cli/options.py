"""Options shared by the commands: connection (address, TLS, token, timeout) and prompts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cpcsam.client._channel import DEFAULT_ADDRESS
from cpcsam.client.prompts import Prompt
from cpcsam.commands import ArgumentParser, positive
from cpcsam.contract import PointLabel
from cpcsam.errors import ConfigError

__all__ = ["Commands", "add_connection", "add_prompts", "connect"]

if TYPE_CHECKING:
    import argparse

    from cpcsam.client.sync_client import SegmentationClient


Commands = Any
"""Type of argparse's `add_subparsers` result, which has no public name."""

TOKEN_VARIABLE: Final = "CPCSAM_TOKEN"


def add_connection(parser: ArgumentParser) -> None:
    """Add the connection options, which `connect` reads."""
    group = parser.add_argument_group("the gateway")
    group.add_argument(
        "--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="its address (%(default)s)"
    )
    group.add_argument("--tls", action="store_true", help="use TLS")
    text = "trusted certificates, PEM (the system's); implies --tls"
    group.add_argument("--ca", type=Path, metavar="FILE", help=text)
    text = "name in its certificate (the host of --address); implies --tls"
    group.add_argument("--tls-name", metavar="NAME", help=text)
    text = f"file that holds the bearer token (the variable {TOKEN_VARIABLE})"
    group.add_argument("--token-file", type=Path, metavar="FILE", help=text)
    text = "time limit of a call in seconds, retries included (%(default)s)"
    group.add_argument("--timeout", type=positive, default=60.0, metavar="S", help=text)


def connect(args: argparse.Namespace) -> SegmentationClient:
    """Open a client with the connection options.

    Raises:
        ConfigError: the token or the certificates cannot be read.
    """
    from cpcsam.client.sync_client import SegmentationClient

    token = os.environ.get(TOKEN_VARIABLE)
    if args.token_file is not None:
        try:
            token = args.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError.of(
                f"--token-file {args.token_file}",
                got=getattr(error, "strerror", None) or "no text",
                expected="a file that holds a token",
                fix="correct the path",
            ) from error
    return SegmentationClient(
        args.address,
        timeout_s=args.timeout,
        token=token or None,
        tls=args.tls,
        ca=args.ca,
        tls_name=args.tls_name,
    )


def add_prompts(parser: ArgumentParser) -> None:
    """Add the prompt options, which fill `prompts`, a tuple."""
    parser.set_defaults(prompts=())
    group = parser.add_argument_group("prompts")
    for option, numbers, text in (
        ("--click", "X,Y", "a new prompt: a point on the entity"),
        ("--box", "X0,Y0,X1,Y1", "a new prompt: a box around the entity"),
        ("--also", "X,Y", "a further point on the entity"),
        ("--negative", "X,Y", "a background point, outside of the entity"),
    ):
        group.add_argument(option, action=_AddToPrompts, metavar=numbers, help=text)


class _AddToPrompts(argparse.Action):
    """Start a prompt or extend the last; argparse calls it in the order of the options."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Parse the coordinates of an option."""
        form = str(self.metavar)
        numbers = _numbers(str(values))
        if len(numbers) != form.count(",") + 1:
            raise argparse.ArgumentError(self, f"got {values!r}, expected numbers as {form}")
        prompts: tuple[Prompt, ...] = namespace.prompts
        if self.dest == "box":
            x0, y0, x1, y1 = numbers
            namespace.prompts = (*prompts, Prompt(box=(x0, y0, x1, y1)))
            return
        x, y = numbers
        if self.dest == "click":
            namespace.prompts = (*prompts, Prompt.click(x, y))
            return
        if not prompts:
            raise argparse.ArgumentError(self, "comes before any --click or --box to add it to")
        last = prompts[-1]
        label = PointLabel.BACKGROUND if self.dest == "negative" else PointLabel.FOREGROUND
        longer = Prompt((*last.point_coords, (x, y)), (*last.point_labels, int(label)), last.box)
        namespace.prompts = (*prompts[:-1], longer)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
