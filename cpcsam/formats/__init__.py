"""Formats of annotation tools: a module each, with a writer and a reader behind one protocol.

    from cpcsam.formats import FORMATS, format_of

The names are known without any package; a format's module, and what it needs, is imported when it
is used. `client.exporting.write_masks` writes results, `training.data` reads datasets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, cast

from cpcsam.errors import ConfigError

if TYPE_CHECKING:
    from cpcsam.formats.records import Format

__all__ = ["FORMATS", "MARKER", "UNNAMED", "format_of"]

FORMATS: Final = (
    "coco",
    "png",
    "index",
    "yolo-seg",
    "geojson",
    "label-studio",
    "cvat",
    "ome-zarr",
)
"""Names of all formats."""
UNNAMED: Final = "entity"
"""Class of masks without a label, those of prompts and of everything."""
MARKER: Final = "cpcsam-format.json"
"""File that tells a folder written by `writing.write_format` from others."""


def format_of(name: str) -> Format:
    """Return the writer and the reader of a format.

    Args:
        name: one of `FORMATS`.

    Raises:
        ConfigError: there is no such format.
        ModuleNotFoundError: a package is missing; the message names the extra.
    """
    if name not in FORMATS:
        raise ConfigError.of(
            "format", got=repr(name), expected=", ".join(FORMATS), fix="write one of these"
        )
    module = importlib.import_module(f"cpcsam.formats.{name.replace('-', '_')}")
    return cast("Format", module)
