"""Separation of JPEG, PNG and WebP files into pixels and metadata, without decoding.

Decoders refuse files, or warn, for metadata that they do not need, so they get the pixels alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from cpcsam.images.orientation import EXIF_HEADER, orientation_of

__all__ = ["split_metadata"]

PNG_START: Final = 8
PIXEL_CHUNKS: Final = frozenset(
    (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
)
XMP_KEYWORD: Final = b"XML:com.adobe.xmp"
RAW_PROFILES: Final = (b"Raw profile type exif", b"Raw profile type APP1")
"""Keywords of texts in which ImageMagick writes EXIF."""
MAX_TEXT: Final = 1 << 20
"""Bytes up to which a compressed text is unpacked."""

START_OF_SCAN: Final = 0xDA
METADATA_MARKERS: Final = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""APP1 to APP13, APP15 and comments; Adobe's APP14 tells how colours are stored."""
XMP_HEADER: Final = b"http://ns.adobe.com/xap/1.0/\0"


def split_metadata(data: bytes, kind: str) -> tuple[bytes, int]:
    """Return a file without what its pixels do not need, and its orientation.

    Args:
        data: a file.
        kind: its format; others than JPEG, PNG and WEBP have no orientation.

    Returns:
        The file (the same object if nothing had to go), and 1 to 8.
    """
    if kind == "JPEG":
        return _split_jpeg(data)
    if kind == "PNG":
        return _split_png(data)
    if kind == "WEBP":
        blocks = dict(_riff_chunks(data))
        return data, orientation_of(blocks.get(b"EXIF"), blocks.get(b"XMP "))
    return data, 1


def _split_jpeg(data: bytes) -> tuple[bytes, int]:
    pieces, kept_from, position = [], 0, 2
    exif = xmp = None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == START_OF_SCAN:
            break
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in METADATA_MARKERS:
            content = data[position + 4 : end] if marker == 0xE1 else b""
            if exif is None and content.startswith(EXIF_HEADER):
                exif = content
            elif xmp is None and content.startswith(XMP_HEADER):
                xmp = content
            pieces.append(data[kept_from:position])
            kept_from = end
        position = end
    pixels = b"".join((*pieces, data[kept_from:])) if pieces else data
    return pixels, orientation_of(exif, xmp)


def _split_png(data: bytes) -> tuple[bytes, int]:
    pieces, kept_from, position = [], 0, PNG_START
    exif = raw_profile = xmp = None
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind not in PIXEL_CHUNKS:
            content = data[position + 8 : position + 8 + length]
            if kind == b"eXIf" and exif is None:
                exif = content
            elif kind in (b"tEXt", b"zTXt", b"iTXt"):
                keyword, _, text = content.partition(b"\0")
                if keyword in RAW_PROFILES and raw_profile is None:
                    raw_profile = _exif_of_profile(_png_text(kind, text))
                elif keyword == XMP_KEYWORD and xmp is None:
                    xmp = _png_text(kind, text)
            # The end of a chunk that is cut off belongs to the damage that the decoder reports.
            if end <= len(data):
                pieces.append(data[kept_from:position])
                kept_from = end
        if kind == b"IEND":
            break
        position = end
    pixels = b"".join((*pieces, data[kept_from:])) if pieces else data
    return pixels, orientation_of(exif if exif is not None else raw_profile, xmp)


def _png_text(kind: bytes, text: bytes) -> bytes:
    """Return the text of a chunk, after its keyword; empty if it is damaged."""
    if kind == b"tEXt":
        return text
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[1:]
    body = text[1:]  # after the compression method
    if kind == b"iTXt":
        body = b"\0".join(body.split(b"\0", 2)[2:])  # after language and translated keyword
    if not compressed:
        return body
    try:
        return zlib.decompressobj().decompress(body, MAX_TEXT)
    except zlib.error:
        return b""


def _exif_of_profile(text: bytes) -> bytes | None:
    """Return the block of ImageMagick's profile: name, length and hexadecimal digits in lines."""
    try:
        return bytes.fromhex(b"".join(text.strip().split(b"\n")[2:]).decode())
    except ValueError:
        return None


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind in (b"EXIF", b"XMP "):
            yield kind, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2  # chunks begin at even offsets
