"""`cpcsam classes`: list, teach and forget the classes that the server knows by name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.cli.connection import Commands, add_connection, connect
from cpcsam.commands import count
from cpcsam.errors import DataError

if TYPE_CHECKING:
    from cpcsam.client.results import ClassInfo

__all__ = ["add_to"]

EXAMPLES: Final = """\
examples:
  cpcsam classes list
  cpcsam classes add nucleus --example a.png a-labels.png --example b.png b-labels.png
  cpcsam classes add nucleus --example scan.tif scan-labels.tif --tile-size 128
  cpcsam classes remove nucleus"""
ADD: Final = """\
Teach a class by a few annotated images in which all its entities are marked. It is known at once.

LABELS is a picture of the image's size, a grey PNG or TIFF with 8 or 16 bits: 0 for background, and
a number of its own for each entity."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    text = "list, teach and forget the classes that the server knows by name"
    parser = commands.add_parser(
        "classes", help=text, description=text.capitalize() + ".", epilog=EXAMPLES
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="list|add|remove")

    every = kinds.add_parser(
        "list", help="name the classes", epilog="examples:\n  cpcsam classes list"
    )
    every.set_defaults(run=_list)

    add = kinds.add_parser("add", help="teach a class", description=ADD, epilog=EXAMPLES)
    add.set_defaults(run=_add)
    add.add_argument("name", metavar="NAME", help="of the class")
    add.add_argument(
        "--example",
        nargs=2,
        action="append",
        required=True,
        type=Path,
        metavar=("IMAGE", "LABELS"),
        help="an image and its annotation; may be given again",
    )
    text = "for the first class: look at tiles of so many pixels a side (whole images)"
    add.add_argument("--tile-size", type=count, default=0, metavar="N", help=text)

    remove = kinds.add_parser(
        "remove", help="forget a class", epilog="examples:\n  cpcsam classes remove nucleus"
    )
    remove.set_defaults(run=_remove)
    remove.add_argument("name", metavar="NAME", help="of the class")
    for one in (every, add, remove):
        add_connection(one)


def _list(args: argparse.Namespace) -> None:
    with connect(args) as client:
        _print(client.classes())


def _add(args: argparse.Namespace) -> None:
    from cpcsam.client.requests import Example

    examples = [Example(image, _read_labels(labels)) for image, labels in args.example]
    with connect(args) as client:
        _print(client.add_class(args.name, examples, tile_size=args.tile_size))


def _remove(args: argparse.Namespace) -> None:
    with connect(args) as client:
        _print(client.remove_class(args.name))


def _print(classes: Iterable[ClassInfo]) -> None:
    for one in classes:
        print(f"{one.name}\t{one.prototypes} prototype{'' if one.prototypes == 1 else 's'}")


def _read_labels(file: Path) -> NDArray[Any]:
    """An (H, W) label image.

    Raises:
        DataError: no such picture, or nothing is marked in it.
    """
    from PIL import Image

    try:
        with Image.open(file) as picture:
            labels = np.array(picture)
    except OSError as error:
        raise _no_labels(file, error.strerror or "no picture") from error
    if labels.ndim != 2 or np.issubdtype(labels.dtype, np.floating):
        raise _no_labels(file, f"{labels.dtype} of shape {labels.shape}")
    if not labels.any():
        raise _no_labels(file, "background alone")
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels


def _no_labels(file: Path, got: str) -> DataError:
    return DataError.of(
        str(file),
        got=got,
        expected="a grey picture, 0 for background and a number for each entity",
        fix="give a label image",
    )
