"""Orientation of images: parsing of EXIF and XMP, and turning pixels upright.

An orientation is EXIF's number from 1 (upright) to 8; 5 to 8 exchange height and width. A block
that is damaged holds none.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final

from numpy.typing import NDArray

__all__ = [
    "SIDEWAYS",
    "UPRIGHT",
    "orientation_of",
    "orientation_of_exif",
    "turn_upright",
    "upright_size",
]

UPRIGHT: Final = 1
SIDEWAYS: Final = (5, 6, 7, 8)
EXIF_HEADER: Final = b"Exif\0\0"
ORIENTATION_TAG: Final = 0x0112
SHORT: Final = 3
XMP_ORIENTATION: Final = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the orientation that EXIF states, else XMP, else 1."""
    found = None if exif is None else orientation_of_exif(exif)
    if found is None and xmp is not None and (match := XMP_ORIENTATION.search(xmp)):
        found = int(match[1])
    return found or 1


def orientation_of_exif(exif: bytes) -> int | None:
    """Read the orientation from an EXIF block, with or without its header; None without one."""
    block = exif.removeprefix(EXIF_HEADER)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        magic, offset = struct.unpack_from(f"{order}HI", block, 2)
        (count,) = struct.unpack_from(f"{order}H", block, offset)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, offset + 2 + 12 * index)
            if tag == ORIENTATION_TAG:
                return value if magic == 42 and kind == SHORT and 1 <= value <= 8 else None
    except struct.error:
        pass
    return None


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (H, W) of an image of stored size (H, W) after turning it upright."""
    return (size[1], size[0]) if orientation in SIDEWAYS else size


def turn_upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels (H, W, ...) upright, as a view.

    Args:
        values: rows and columns first.
        orientation: 1 to 8.
    """
    if orientation in SIDEWAYS:
        values = values.swapaxes(0, 1)
    # Which axes are mirrored then: rows for 3, 4, 7, 8, columns for 2, 3, 6, 7.
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]
