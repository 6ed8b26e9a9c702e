"""Unpacking of TIFF pages of any pixel type by libtiff's byte codecs (LZW, Zstandard, deflate).

Pillow has libtiff, but no pixel types such as RGB of 16 bits. So it is shown the packed strips or
tiles as a grey image of bytes; predictors and byte order are undone here.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.images.source import refusal

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["BYTE_CODECS", "unpack_page"]

BYTE_CODECS: Final = (5, 8, 32946, 32773, 34925, 50000)
"""LZW, deflate, PackBits, LZMA and Zstandard."""
ByteOrder = Literal["<", ">"]

CLASSIC: Final = 42
LONG: Final = 4
NO_PREDICTOR, HORIZONTAL, FLOATING = 1, 2, 3


def unpack_page(data: bytes, page: TiffPage, byteorder: ByteOrder) -> NDArray[Any]:
    """Decode a page of whole bytes a sample, packed by one of `BYTE_CODECS`.

    Args:
        data: the file.
        page: its page.
        byteorder: `<` or `>`.

    Returns:
        (H, W, samples) in native byte order.

    Raises:
        ContractError: another compression, predictor or pixel type.
        Exception: of any type that Pillow raises for damaged strips.
    """
    kind = page.dtype
    if (
        kind is None
        or page.compression not in BYTE_CODECS
        or page.predictor not in (NO_PREDICTOR, HORIZONTAL, FLOATING)
        or page.bitspersample != 8 * kind.itemsize
    ):
        raise refusal(
            f"TIFF compression {page.compression} with {page.bitspersample} bits",
            "LZW, deflate, PackBits, LZMA, Zstandard or none, or JPEG of 8 bits",
            "write it again without compression",
        )
    planes = 1 if page.planarconfig == 1 else page.samplesperpixel
    samples = page.samplesperpixel // planes
    segments = len(page.dataoffsets) // planes
    parts = []
    for plane in range(planes):
        chosen = slice(plane * segments, (plane + 1) * segments)
        packed = _bytes_of(
            data,
            page,
            samples * kind.itemsize,
            byteorder,
            page.dataoffsets[chosen],
            page.databytecounts[chosen],
        )
        parts.append(_samples(packed, page, samples, kind.newbyteorder(byteorder)))
    return np.concatenate(parts, axis=2)


def _bytes_of(
    data: bytes,
    page: TiffPage,
    pixel_bytes: int,
    byteorder: ByteOrder,
    offsets: Any,
    counts: Any,
) -> NDArray[np.uint8]:
    """Decode the strips or tiles of a plane to rows of bytes, as wide as they are stored."""
    height, width = page.imagelength, page.imagewidth
    if page.is_tiled:
        across = -(-width // page.tilewidth)
        down = -(-height // page.tilelength)
        shape = down * page.tilelength, across * page.tilewidth * pixel_bytes
        layout = {
            322: page.tilewidth * pixel_bytes,
            323: page.tilelength,
            324: offsets,
            325: counts,
        }
    else:
        shape = height, width * pixel_bytes
        layout = {273: offsets, 278: min(page.rowsperstrip, height), 279: counts}
    tags = {256: shape[1], 257: shape[0], 258: 8, 259: page.compression, 262: 1, 277: 1, **layout}
    file = _with_directory(data, tags, byteorder)
    with Image.open(io.BytesIO(file), formats=("TIFF",)) as image:
        return np.array(image)


def _with_directory(data: bytes, tags: dict[int, Any], byteorder: ByteOrder) -> bytes:
    """Return the file with another first directory, in classic form."""
    end = len(data) + len(data) % 2
    entries, arrays = [], b""
    arrays_at = end + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = [int(each) for each in np.atleast_1d(value)]
        packed = struct.pack(f"{byteorder}{len(values)}I", *values)
        if len(values) > 1:
            packed, arrays = struct.pack(f"{byteorder}I", arrays_at + len(arrays)), arrays + packed
        entries.append(struct.pack(f"{byteorder}HHI", tag, LONG, len(values)) + packed)
    mark = b"II" if byteorder == "<" else b"MM"
    header = mark + struct.pack(f"{byteorder}HI", CLASSIC, end)
    # The rest of a longer header belongs to no strip.
    return b"".join(
        (
            header,
            data[8:].ljust(end - 8, b"\0"),
            struct.pack(f"{byteorder}H", len(entries)),
            *entries,
            bytes(4),
            arrays,
        )
    )


def _samples(
    rows: NDArray[np.uint8], page: TiffPage, samples: int, kind: np.dtype[Any]
) -> NDArray[Any]:
    """Undo the predictor of rows of bytes, tile by tile; return (H, W, samples)."""
    height, width = page.imagelength, page.imagewidth
    step = page.tilewidth if page.is_tiled else width
    tiles = rows.reshape(len(rows), -1, step * samples * kind.itemsize)
    if page.predictor == FLOATING:
        # Bytes are stored as differences, all first bytes of a row's values before all second.
        summed = tiles.reshape(*tiles.shape[:2], -1, samples).cumsum(axis=2, dtype=np.uint8)
        by_place = summed.reshape(*tiles.shape[:2], kind.itemsize, -1)
        tiles = np.ascontiguousarray(np.moveaxis(by_place, 2, 3))
        kind = kind.newbyteorder(">")
    values = np.ascontiguousarray(tiles).view(kind).reshape(len(rows), -1, step, samples)
    values = values.astype(kind.newbyteorder("="))
    if page.predictor == HORIZONTAL:
        # Of floats, too, the bits are added up as integers.
        bits = np.dtype(f"u{kind.itemsize}")
        values = values.view(bits).cumsum(axis=2, dtype=bits).view(values.dtype)
    return values.reshape(len(rows), -1, samples)[:height, :width]
