"""Configuration of the Label Studio backend and the command-line options that set it."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cpcsam.commands import count
from cpcsam.errors import ConfigError

__all__ = ["LabelStudioConfig", "add_label_studio_options", "label_studio_config_from_args"]

TOKEN_VARIABLE: Final = "LABEL_STUDIO_API_KEY"


@dataclass(frozen=True)
class LabelStudioConfig:
    """The Label Studio server whose images the backend reads.

    Attributes:
        url: of the server, such as `http://127.0.0.1:8081`; images come from nowhere else.
        token: an access token of it, either a personal one (JWT) or a legacy one.
        max_image_bytes: size of an image that is read from it.
        connect_s: seconds for a connection.
        read_s: seconds for an image, redirects and a refreshed token included.
        max_known_images: images whose identity is kept, so that they are not read again.
        known_s: seconds for which it is kept.
    """

    url: str
    token: str = field(repr=False)
    max_image_bytes: int = 52 * 1024 * 1024
    connect_s: float = 1.0
    read_s: float = 20.0
    max_known_images: int = 4096
    known_s: float = 600.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: the URL or the token cannot be used.
        """
        try:
            parts = urlsplit(self.url)
            is_address = parts.port != 0
        except ValueError:  # a host or a port that is none
            parts, is_address = urlsplit(""), False
        if (
            not is_address
            or parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username is not None
            or parts.query
            or parts.fragment
        ):
            raise ConfigError.of(
                "--label-studio-url",
                got=repr(self.url),
                expected="http://HOST[:PORT] or https://HOST[:PORT], with a path if need be",
                fix="give the address by which this machine reaches Label Studio",
            )
        if not self.token or not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError.of(
                "--label-studio-token-file",
                got="no token",
                expected="an access token of Label Studio",
                fix=f"write it to the file, or set {TOKEN_VARIABLE}",
            )


def add_label_studio_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `LabelStudioConfig`."""
    add = parser.add_argument_group("Label Studio").add_argument
    text = "Label Studio whose images are read, such as http://127.0.0.1:8081 (none)"
    add("--label-studio-url", metavar="URL", help=text)
    text = f"file with an access token of it (the variable {TOKEN_VARIABLE})"
    add("--label-studio-token-file", type=Path, metavar="FILE", help=text)
    add(
        "--label-studio-max-image-bytes",
        type=count,
        default=LabelStudioConfig.max_image_bytes,
        metavar="N",
        help="bytes of an image that is read from it (%(default)s)",
    )


def label_studio_config_from_args(args: argparse.Namespace) -> LabelStudioConfig | None:
    """Build the configuration from parsed options; None without a URL.

    Args:
        args: as `add_label_studio_options` defines them.

    Raises:
        ConfigError: the URL or the token cannot be used.
        OSError: the file of the token cannot be read.
    """
    if args.label_studio_url is None:
        return None
    file = args.label_studio_token_file
    token = os.environ.get(TOKEN_VARIABLE, "") if file is None else file.read_text()
    return LabelStudioConfig(
        args.label_studio_url,
        token.strip(),
        max_image_bytes=args.label_studio_max_image_bytes,
    )
