"""Connection options shared by the commands: address, TLS, token and timeout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cpcsam.client._channel import DEFAULT_ADDRESS
from cpcsam.commands import ArgumentParser, positive
from cpcsam.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from cpcsam.client.sync_client import SegmentationClient

__all__ = ["Commands", "add_connection", "connect"]

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
        args.address, timeout_s=args.timeout, token=token or None, tls=args.tls, ca=args.ca
    )
