"""Formats of image files: names, suffixes and first bytes."""

from __future__ import annotations

from typing import Final

__all__ = ["IMAGE_FORMATS", "IMAGE_SUFFIXES", "format_of"]

IMAGE_FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
IMAGE_SUFFIXES: Final = frozenset(
    {".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".apng", ".tif", ".tiff"}
    | {".btf", ".tf8", ".stk", ".lsm", ".webp"}
)
"""Suffixes of these formats, in lower case."""
STARTS: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
)


def format_of(data: bytes) -> str | None:
    """Return the format of a file by its first bytes, None for another."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for start, kind in STARTS if data.startswith(start)), None)
