"""Command `cpcsam classes`: list, add and remove the classes that the server knows by name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from cpcsam.cli.options import Commands, add_connection, connect
from cpcsam.commands import count_from_0
from cpcsam.errors import ConfigError, ContractError, DataError
from cpcsam.images.arguments import add_read_options, read_options_of

if TYPE_CHECKING:
    from cpcsam.client.results import ClassInfo

__all__ = ["add_to"]

EXAMPLES: Final = """\
examples:
  cpcsam classes list
  cpcsam classes add nucleus --example a.png a-labels.png --example b.png b-labels.png
  cpcsam classes add nucleus --example scan.tif scan-labels.tif --tile-size 128
  cpcsam classes add nucleus --text nucleus --text "cell nucleus" --not background
  cpcsam classes remove nucleus"""
ADD: Final = """\
Add a class from a few images in which all its entities are annotated, by texts that name it, or by
both. It can be used immediately. Texts need a server with a CLIP.

LABELS is a label image of the image's size, a greyscale PNG or TIFF with 8 or 16 bits: 0 for
background, and a distinct number for each entity. If it has several pages, the one of --page
counts."""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    text = "list, add and remove the classes that the server knows by name"
    parser = commands.add_parser(
        "classes", help=text, description=text.capitalize() + ".", epilog=EXAMPLES
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="list|add|remove")

    listing = kinds.add_parser(
        "list", help="list the classes", epilog="examples:\n  cpcsam classes list"
    )
    listing.set_defaults(run=_list)

    add = kinds.add_parser("add", help="add a class", description=ADD, epilog=EXAMPLES)
    add.set_defaults(run=_add)
    add.add_argument("name", metavar="NAME", help="of the class")
    add.add_argument(
        "--example",
        nargs=2,
        action="append",
        default=[],
        type=Path,
        metavar=("IMAGE", "LABELS"),
        help="an image and its annotation; may be repeated",
    )
    for option, dest, text in (
        ("--text", "texts", "a text that names the class; may be repeated for synonyms"),
        ("--not", "negatives", "what it must not be taken for; may be repeated"),
    ):
        add.add_argument(option, dest=dest, action="append", default=[], metavar="TEXT", help=text)
    add_read_options(add)
    text = "for the first class: side of the tiles in pixels; 0 for whole images "
    text += "(default: the model's window, see cpcsam status)"
    add.add_argument("--tile-size", type=count_from_0, metavar="N", help=text)

    remove = kinds.add_parser(
        "remove", help="remove a class", epilog="examples:\n  cpcsam classes remove nucleus"
    )
    remove.set_defaults(run=_remove)
    remove.add_argument("name", metavar="NAME", help="of the class")
    for subparser in (listing, add, remove):
        add_connection(subparser)


def _list(args: argparse.Namespace) -> None:
    with connect(args) as client:
        _print(client.classes())


def _add(args: argparse.Namespace) -> None:
    from cpcsam.client.requests import Example

    if not args.example and not args.texts:
        raise ConfigError.of(
            "classes add",
            got="no example and no text",
            expected="some",
            fix="give --example or --text",
        )
    options = read_options_of(args)
    examples = [
        Example(image, _read_labels(labels, options.page), options)
        for image, labels in args.example
    ]
    with connect(args) as client:
        _print(
            client.add_class(
                args.name,
                examples,
                texts=args.texts,
                negatives=args.negatives,
                tile_size=args.tile_size,
            )
        )


def _remove(args: argparse.Namespace) -> None:
    with connect(args) as client:
        _print(client.remove_class(args.name))


def _print(classes: Iterable[ClassInfo]) -> None:
    for entry in classes:
        plural = "" if entry.prototypes == 1 else "s"
        taught = [f"{entry.prototypes} prototype{plural}"] if entry.prototypes else []
        if entry.texts:
            taught.append(f"text: {', '.join(entry.texts)}")
        if entry.negatives:
            taught.append(f"not: {', '.join(entry.negatives)}")
        print(f"{entry.name}\t{'; '.join(taught)}")


def _read_labels(file: Path, page: int | None = None) -> NDArray[Any]:
    """Read an (H, W) integer label image; of a stack, the image's page.

    Raises:
        DataError: the file is not a label image, or has no entity.
    """
    from cpcsam.images.masks import read_labels

    try:
        labels = read_labels(file.read_bytes(), page=page)
    except OSError as error:
        raise _no_labels(file, error.strerror or "no picture") from error
    except ContractError as error:
        raise DataError(f"{file}: {error}") from error
    if not labels.any():
        raise _no_labels(file, "background alone")
    return labels


def _no_labels(file: Path, got: str) -> DataError:
    return DataError.of(
        str(file),
        got=got,
        expected="a greyscale image, 0 for background and a number for each entity",
        fix="give a label image",
    )
