"""Image files of every accepted format, mutated ones, and headers that promise or cost too much."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
import tifffile
from PIL import Image

__all__ = [
    "SIDE",
    "crafted",
    "line_of_pixels",
    "mutated_bytes",
    "mutated_image",
    "plain_image",
    "sources",
]

SIDE: Final = 48
"""Of the small picture, in pixels."""
PNG_START: Final = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES: Final = 200
"""Bytes at the beginning in which mutations do most."""


@lru_cache
def plain_image() -> bytes:
    """A small PNG with some shapes."""
    return _saved(_picture(), "PNG")


@lru_cache
def sources() -> tuple[bytes, ...]:
    """Valid files: every format, and of TIFF and PNG their kinds of pixels and of compression."""
    picture = _picture()
    grey, pixels = picture.convert("L"), np.asarray(picture)
    deep = np.asarray(grey, np.uint16) * 16
    frames = [picture.rotate(angle) for angle in (0, 90)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames}
    exif = Image.Exif()
    exif[0x0112] = 6
    return (
        *(_saved(picture, kind) for kind in ("PNG", "BMP", "GIF", "TIFF")),
        *(_saved(picture, kind, exif=exif) for kind in ("JPEG", "WEBP", "PNG")),
        _saved(picture, "JPEG", progressive=True, quality=70),
        _saved(picture.quantize(16), "PNG"),
        _saved(grey.convert("1"), "PNG"),
        _saved(Image.fromarray(deep), "PNG"),
        *(_saved(picture, kind, **moving) for kind in ("GIF", "PNG", "WEBP", "TIFF")),
        *(_saved(picture, "TIFF", compression=name) for name in ("tiff_lzw", "packbits")),
        _tiff(deep),
        _tiff(deep.astype(np.float32), compression="zlib", predictor=False),
        _tiff(pixels, photometric="rgb", tile=(16, 16), compression="zlib"),
        _tiff(np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate"),
        _tiff(
            np.stack([deep] * 6).reshape(2, 3, SIDE, SIDE), imagej=True, metadata={"axes": "ZCYX"}
        ),
        _tiff(np.stack([deep] * 6).reshape(2, 3, SIDE, SIDE), ome=True, metadata={"axes": "ZCYX"}),
        _tiff(deep, bigtiff=True, byteorder=">"),
    )


def mutated_bytes(data: bytes, rng: random.Random, header: int) -> bytes:
    """Cut data off, flip bytes in its header or anywhere, or copy, repeat or drop a piece."""
    content = bytearray(data)
    kind = rng.randrange(6)
    if not content or kind == 0:
        return bytes(content[: rng.randint(0, len(content))])
    if kind <= 2:
        reach = len(content) if kind == 1 else min(len(content), header)
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(reach)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        return bytes(content)
    start, length = rng.randrange(len(content)), rng.randint(1, 64)
    piece, place = content[start : start + length], rng.randrange(len(content))
    if kind == 3:
        content[place : place + len(piece)] = piece
    elif kind == 4:
        content[place:place] = piece * rng.randint(1, 50)
    else:
        del content[place : place + length]
    return bytes(content)


def mutated_image(rng: random.Random) -> bytes:
    """A file of any format, mutated once or twice."""
    data = rng.choice(sources())
    for _ in range(rng.randint(1, 2)):
        data = mutated_bytes(data, rng, HEADER_BYTES)
    return data


def line_of_pixels(width: int, *, upright: bool = False) -> bytes:
    """A PNG of W × 1 black pixels of one bit each, or of 1 × W."""
    size = (1, width) if upright else (width, 1)
    rows = bytes(2 * width) if upright else bytes(1 + (width + 7) // 8)
    return _png(size, 1, 0, [(b"IDAT", zlib.compress(rows, 1))])


def crafted(rng: random.Random) -> tuple[str, bytes]:
    """Draw a file whose header is hostile, with the name of its kind."""
    name = rng.choice([*CRAFTED])
    return name, CRAFTED[name](rng)


def _picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(values: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(
    size: tuple[int, int], depth: int, colour: int, chunks: list[tuple[bytes, bytes]]
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return PNG_START + b"".join(_chunk(kind, body) for kind, body in parts)


def _after_header(chunks: bytes) -> bytes:
    """The plain PNG with chunks after its IHDR, which takes 25 bytes."""
    end = len(PNG_START) + 25
    return plain_image()[:end] + chunks + plain_image()[end:]


def _many_chunks(rng: random.Random) -> bytes:
    kind = rng.choice([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"abCd"])
    return _after_header(_chunk(kind, b"k\0\0") * rng.choice([1_000, 100_000, 500_000]))


@lru_cache
def _packed_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def _packed_text(rng: random.Random) -> bytes:
    text = _packed_zeros(rng.choice([1 << 20, 1 << 26]))
    keyword = rng.choice([b"Raw profile type exif", b"Raw profile type APP1", b"Comment"])
    return _after_header(_chunk(b"zTXt", keyword + b"\0\0" + text) * rng.choice([1, 20]))


def _xmp(rng: random.Random) -> bytes:
    count = rng.choice([1_000, 100_000])
    packet = b'<x:xmpmeta tiff:Orientation="' + b" " * count + b"<a " * count
    return _after_header(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))


def _segments(rng: random.Random) -> bytes:
    jpeg = _saved(_picture(), "JPEG")
    marker = rng.choice([b"\xff\xe1", b"\xff\xfe", b"\xff\xe2", b"\xff\xdb"])
    return jpeg[:2] + (marker + b"\0\x04ab") * rng.choice([1_000, 300_000]) + jpeg[2:]


def _fill_bytes(rng: random.Random) -> bytes:
    jpeg = _saved(_picture(), "JPEG")
    return jpeg[:2] + b"\xff" * rng.choice([10_000, 5_000_000]) + jpeg[2:]


def _jpeg_scans(rng: random.Random) -> bytes:
    jpeg = _saved(_picture(), "JPEG", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[scan:-2] * rng.choice([100, 5_000]) + jpeg[-2:]


def _gif_frames(rng: random.Random) -> bytes:
    gif = _saved(_picture().convert("P"), "GIF")
    frame = gif[gif.index(b"\x2c", 13 + 3 * 2) : -1]
    return gif[:-1] + frame * rng.choice([100, 3_000]) + b"\x3b"


def _tiff_pages(rng: random.Random) -> bytes:
    """A chain of directories without pixels, which may end in a circle."""
    count, entries = rng.choice([(1_000, 1), (100_000, 1), (50, 4_000)])
    size = 2 + 12 * entries + 4
    body = struct.pack("<H", entries) + struct.pack("<HHII", 256, 3, 1, 9) * entries
    pages = b"".join(body + struct.pack("<I", 8 + (page + 1) * size) for page in range(count - 1))
    last = struct.pack("<I", rng.choice([0, 8]))
    return b"II*\0" + struct.pack("<I", 8) + pages + body + last


def _tiff_entries(rng: random.Random) -> bytes:
    """A directory whose entries state counts and offsets beyond all bounds."""
    tags = (256, 257, 258, 259, 262, 273, 277, 278, 279, 322, 323, 324, 325, 339, 270, 700)
    values = [0, 1, 7, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]
    entries = b"".join(
        struct.pack("<HHII", tag, rng.randint(0, 18), rng.choice(values), rng.choice([8, *values]))
        for tag in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def _tiff_strips(rng: random.Random) -> bytes:
    """A large page of strips of one row each, as many as its rows."""
    rows = rng.choice([1_000, 60_000])
    return _tiff(np.zeros((rows, 8), np.uint8), rowsperstrip=1)


def _ome(rng: random.Random) -> bytes:
    count = rng.choice([100, 30_000])
    text = "<OME>" + "<Image><Pixels/></Image>" * count + "</OME>"
    return _tiff(np.zeros((8, 8), np.uint8), description=f'<?xml version="1.0"?>{text}')


def _size_of_bmp(rng: random.Random) -> bytes:
    data = bytearray(_saved(_picture(), "BMP"))
    struct.pack_into("<ii", data, 18, *(rng.choice([-1, 0, 1 << 30, -(1 << 31)]) for _ in "WH"))
    return bytes(data)


def _size_of_png(rng: random.Random) -> bytes:
    size = rng.choice([0, 1, 60_000, (1 << 31) - 1, (1 << 32) - 1]), rng.choice([0, 1, 60_000])
    return _png(size, rng.choice([1, 8, 16, 3]), rng.randrange(8), [(b"IDAT", b"")])


def _size_of_gif(rng: random.Random) -> bytes:
    data = bytearray(_saved(_picture(), "GIF"))
    struct.pack_into("<HH", data, 6, 0xFFFF, 0xFFFF)
    return bytes(data)


def _pixel_bomb(rng: random.Random) -> bytes:
    side = rng.choice([4_000, 8_000])
    rows = zlib.compress(bytes((side // 8 + 1) * side), 1)
    return _png((side, side), 1, 0, [(b"IDAT", rows)])


def _riff(rng: random.Random) -> bytes:
    webp = _saved(_picture(), "WEBP")
    return webp + (b"ABCD" + bytes(4)) * rng.choice([1_000, 300_000])


CRAFTED: Final[dict[str, Callable[[random.Random], bytes]]] = {
    "png_chunks": _many_chunks,
    "png_packed_text": _packed_text,
    "png_xmp": _xmp,
    "png_size": _size_of_png,
    "png_pixels": _pixel_bomb,
    "jpeg_segments": _segments,
    "jpeg_fill": _fill_bytes,
    "jpeg_scans": _jpeg_scans,
    "gif_frames": _gif_frames,
    "gif_size": _size_of_gif,
    "tiff_pages": _tiff_pages,
    "tiff_entries": _tiff_entries,
    "tiff_strips": _tiff_strips,
    "tiff_ome": _ome,
    "bmp_size": _size_of_bmp,
    "webp_chunks": _riff,
    "line": lambda rng: line_of_pixels(rng.choice([10_000, 1 << 20, 1 << 24])),
}
"""Files by the kind of their hostility. None holds more than 16 MB."""
