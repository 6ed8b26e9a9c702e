"""Command-line options for page, channels and intensity of image files."""

from __future__ import annotations

import argparse

from cpcsam.images.options import Intensity, ReadOptions

__all__ = ["add_read_options", "read_options_of"]


def add_read_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options that `read_options_of` reads."""
    text = "page of image files, plane of a stack or frame, from 0 (default: the first)"
    parser.add_argument("--page", type=int, metavar="N", help=text)
    text = "channels, from 0, to show as grey, or as red, green and blue"
    parser.add_argument("--channels", type=_indices, default=(), metavar="C[,C,C]", help=text)
    text = "scaling of more than 8 bits, such as range:0:4095 (default: that of the model)"
    parser.add_argument("--intensity", metavar="POLICY:LOW:HIGH", help=text)


def read_options_of(args: argparse.Namespace) -> ReadOptions:
    """Return the options of `add_read_options`.

    Raises:
        ConfigError: an intensity policy that scales nothing.
        ContractError: a negative index, or more than three channels.
    """
    intensity = None if args.intensity is None else Intensity.parse(args.intensity)
    return ReadOptions(args.page, args.channels, intensity)


def _indices(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers from 0 such as 0,1,2")
    return tuple(map(int, parts))
