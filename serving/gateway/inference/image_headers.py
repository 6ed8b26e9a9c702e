"""Reading of image headers off the event loop, within bounds of bytes, structure and time."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Final

from cpcsam.images.formats import format_of
from cpcsam.images.options import ReadOptions
from cpcsam.images.reading import ImageHeader, read_header
from serving.gateway.inference.header_process import HeaderProcesses
from serving.gateway.limits import Limits
from serving.gateway.scheduling.executors import Executors
from serving.gateway.validation.request import header_of

__all__ = ["HeaderReader", "is_plain"]

MAX_PARTS: Final = 8192
"""Parts of a plain file: 32 MiB of PNG in the smallest chunks that encoders write."""
MAX_METADATA: Final = 1 << 20
"""Bytes of a plain file that are not pixels."""
PIXEL_CHUNKS: Final = (b"IDAT", b"fdAT")
START_OF_SCAN: Final = 0xDA


class HeaderReader:
    """Reads headers and digests of image files; to be used inside one event loop.

    Plain files take a millisecond, so a thread reads them. All others, such as every TIFF file, are
    read by processes (`HeaderProcesses`).
    """

    def __init__(self, limits: Limits, executors: Executors) -> None:
        self._limits = limits
        self._executors = executors
        self._processes = HeaderProcesses()

    async def read(
        self, load: Callable[[], bytes], options: ReadOptions | None, client: str
    ) -> tuple[bytes, ImageHeader, str]:
        """Return an image file, its header and its SHA-256.

        Args:
            load: returns the file; in a thread, since that copies it.
            options: the page that is described.
            client: key of fairness.

        Raises:
            ContractError: no bytes, no header of an accepted format, no such page, or a structure
                that takes too long.
            LimitError: too many bytes or pixels.
        """
        content, known = await self._executors.headers.run(
            client, _read_plain, load, self._limits, options
        )
        if known is None:
            known = await self._executors.documents.run(
                client, _read, content, self._limits, options, self._processes.read
            )
        return content, *known

    def close(self) -> None:
        """End the processes."""
        self._processes.close()


def is_plain(content: bytes) -> bool:
    """Return whether a file's header takes about a millisecond: few parts and little metadata."""
    kind = format_of(content)
    if kind in ("TIFF", "GIF"):
        return False
    if kind == "JPEG":
        return _is_plain_jpeg(content)
    if kind in ("PNG", "WEBP"):
        return _are_few_chunks(content, kind)
    return True


def _are_few_chunks(content: bytes, kind: str) -> bool:
    layout, start, after = (">I4s", 8, 4) if kind == "PNG" else ("<4sI", 12, 0)
    position, metadata = start, 0
    for _ in range(MAX_PARTS):
        if position + 8 > len(content):
            return True
        first, second = struct.unpack_from(layout, content, position)
        length, name = (first, second) if kind == "PNG" else (second, first)
        metadata += 0 if name in PIXEL_CHUNKS or kind == "WEBP" else length
        if metadata > MAX_METADATA:
            return False
        position += 8 + length + (after or length % 2)
    return False


def _is_plain_jpeg(content: bytes) -> bool:
    position = 2
    for _ in range(MAX_PARTS):
        head = content[position : position + 4]
        if len(head) < 4 or head[0] != 0xFF or head[1] == START_OF_SCAN:
            # What no segment begins is searched for one, byte by byte.
            return len(head) < 4 or head[0] == 0xFF
        filled = head[1] == 0xFF
        position += 1 if filled else 2 + int.from_bytes(head[2:], "big")
        if position > MAX_METADATA:
            return False
    return False


def _read_plain(
    load: Callable[[], bytes], limits: Limits, options: ReadOptions | None
) -> tuple[bytes, tuple[ImageHeader, str] | None]:
    """Return a file, and header and digest; None if it is not plain."""
    content = load()
    if len(content) <= limits.max_image_bytes and not is_plain(content):
        return content, None
    return content, _read(content, limits, options, read_header)


def _read(
    content: bytes,
    limits: Limits,
    options: ReadOptions | None,
    read: Callable[[bytes, ReadOptions | None], ImageHeader],
) -> tuple[ImageHeader, str]:
    # The header comes first, so that no file that is refused is hashed.
    header = header_of(content, limits, options, read)
    return header, hashlib.sha256(content).hexdigest()
