"""Images that the gateway has seen, by their reference: an LRU cache with a time limit."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from time import monotonic

__all__ = ["KnownImages"]


class KnownImages:
    """Identities of images by caller and reference.

    Args:
        most: entries kept.
        seconds: for which each is kept; after that the image is read again, as it may have changed.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._entries: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    @staticmethod
    def key(token: str | None, reference: str) -> bytes:
        """Return the key of an image of a caller, without keeping token or reference."""
        parts = f"{token or ''}\0{reference}".encode(errors="surrogatepass")
        return hashlib.sha256(parts).digest()

    def get(self, key: bytes) -> str | None:
        """Return the image_id; None if it is not known, or not any more."""
        image_id, until = self._entries.get(key, ("", 0.0))
        if until < monotonic():
            self._entries.pop(key, None)
            return None
        self._entries.move_to_end(key)
        return image_id

    def put(self, key: bytes, image_id: str) -> None:
        """Keep an image_id."""
        self._entries[key] = (image_id, monotonic() + self._seconds)
        self._entries.move_to_end(key)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
