"""LRU cache of image embeddings, bounded in bytes and fair between tenants (DESIGN §5).

The key holds the SHA-256 of the image file and the digest of the model, so that a hit needs no
decoding. Tenants never share entries. Eviction takes the least recently used entry of the tenant
that occupies the most bytes.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.geometry import Box
from cpcsam.images.options import ReadOptions
from serving.gateway.inference.single_flight import SingleFlight
from serving.gateway.inference.triton_responses import Encoded
from serving.gateway.metrics import Metrics

__all__ = ["ENTRY_BYTES", "EmbeddingCache", "ImageKey"]


ENTRY_BYTES: Final = 1536
"""Of an entry besides its arrays' contents: key, arrays and objects, as tracemalloc finds them."""
LARGE: Final = 1 << 20
"""Bytes of an array that has nearly all of its pages for itself."""


@dataclass(frozen=True)
class ImageKey:
    """Cache key of an embedding.

    Attributes:
        tenant: owner of the image.
        model: digest of the encoder's model.
        image_id: SHA-256 of the image file, in hexadecimal.
        tile: embedded part of the image; None for the whole.
        options: choice of page, channels and intensity; None where the request chose nothing.
    """

    tenant: str
    model: str
    image_id: str
    tile: Box | None = None
    options: ReadOptions | None = None

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the key, in hexadecimal: the name of the embedding in Triton."""
        return hashlib.sha256(repr(self).encode()).hexdigest().encode()


class EmbeddingCache:
    """LRU cache with single-flight: concurrent misses of a key share one computation.

    To be used inside one event loop.

    Args:
        max_bytes: bound of the sum of all entries; 0 keeps none.
        metrics: counts hits, misses, bytes and evictions.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._tenants: dict[str, OrderedDict[ImageKey, Encoded]] = {}
        self._bytes: dict[str, int] = {}
        self._flights: SingleFlight[ImageKey, Encoded] = SingleFlight()

    def __contains__(self, key: ImageKey) -> bool:
        return key in self._tenants.get(key.tenant, ())

    def is_known(self, key: ImageKey) -> bool:
        """Return whether an embedding is cached or is being computed."""
        return key in self or self._flights.is_running(key)

    async def get(self, key: ImageKey, compute: Callable[[], Awaitable[Encoded]]) -> Encoded:
        """Return an embedding from the cache, or compute and cache it.

        Args:
            key: of the embedding.
            compute: computes it; its errors are raised and not cached.
        """
        entries = self._tenants.get(key.tenant, OrderedDict())
        if key in entries:
            self._metrics.cache_lookups.labels("hit").inc()
            entries.move_to_end(key)
            return entries[key]
        outcome = "joined" if self._flights.is_running(key) else "miss"
        self._metrics.cache_lookups.labels(outcome).inc()

        async def compute_and_insert() -> Encoded:
            return self._insert(key, await compute())

        return await self._flights.run(key, compute_and_insert)

    def _insert(self, key: ImageKey, encoded: Encoded) -> Encoded:
        """Return the embedding as it is kept, or as it is if it does not fit."""
        # An embedding larger than the cache would evict everything and still not fit.
        size = encoded.nbytes + ENTRY_BYTES
        if size > self._max_bytes or key in self:
            return encoded
        # The newcomer counts for its tenant, so that no tenant grows by evicting smaller ones.
        added = {key.tenant: size}
        while sum(self._bytes.values()) + size > self._max_bytes:
            self._evict(max(self._bytes, key=lambda name: self._bytes[name] + added.get(name, 0)))
        kept = replace(encoded, image_embeddings=_in_own_pages(encoded.image_embeddings))
        self._tenants.setdefault(key.tenant, OrderedDict())[key] = kept
        self._bytes[key.tenant] = self._bytes.get(key.tenant, 0) + size
        self._metrics.cache_bytes.set(sum(self._bytes.values()))
        return kept

    def _evict(self, tenant: str) -> None:
        entries = self._tenants[tenant]
        _, evicted = entries.popitem(last=False)
        self._bytes[tenant] -= evicted.nbytes + ENTRY_BYTES
        if not entries:
            del self._tenants[tenant], self._bytes[tenant]
        self._metrics.cache_evictions.inc()


def _in_own_pages(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array, or a copy of it, that shares few of its pages with anything else.

    Arrays below `LARGE` that are kept where all others are soon freed leave holes on the heap
    between them: a twelfth of their own size for embeddings of 256 KiB.
    """
    if array.nbytes >= LARGE:
        return array
    pages = mmap.mmap(-1, array.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    copy: NDArray[Any] = np.ndarray(array.shape, array.dtype, buffer=pages)
    copy[...] = array
    return copy
