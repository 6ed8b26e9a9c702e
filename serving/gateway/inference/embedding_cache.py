"""Embeddings of images that were seen before, bounded in bytes (DESIGN §5).

They are found by the SHA-256 of the image file and the model that made them, before anything is
decoded. Tenants never see each other's, and where room is needed, the tenant who takes the most
of it gives way, with what it used least recently.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cpcsam.automatic.tiling import Tile
from serving.gateway.inference.single_flight import SingleFlight
from serving.gateway.inference.triton_responses import Encoded
from serving.gateway.metrics import Metrics

__all__ = ["EmbeddingCache", "ImageKey"]


@dataclass(frozen=True)
class ImageKey:
    """What an embedding is known by.

    Attributes:
        tenant: whose image it is.
        model: digest of the model that embeds it.
        image_id: SHA-256 of the image file, in hexadecimal.
        tile: the part of the image that is shown; None for the whole.
    """

    tenant: str
    model: str
    image_id: str
    tile: Tile | None = None


class EmbeddingCache:
    """Keeps embeddings, and lets equal requests that meet compute one; used in one event loop.

    Args:
        max_bytes: of all embeddings together; 0 keeps none.
        metrics: count what happens.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._tenants: dict[str, OrderedDict[ImageKey, Encoded]] = {}
        self._bytes: dict[str, int] = {}
        self._flights: SingleFlight[ImageKey, Encoded] = SingleFlight()

    def __contains__(self, key: ImageKey) -> bool:
        return key in self._tenants.get(key.tenant, ())

    async def get(self, key: ImageKey, compute: Callable[[], Awaitable[Encoded]]) -> Encoded:
        """The embedding of an image, computed if it is neither kept nor being computed.

        Args:
            key: of the image.
            compute: makes the embedding; its errors are raised.
        """
        kept = self._tenants.get(key.tenant, OrderedDict())
        if key in kept:
            self._metrics.cache_lookups.labels("hit").inc()
            kept.move_to_end(key)
            return kept[key]
        outcome = "joined" if self._flights.is_running(key) else "miss"
        self._metrics.cache_lookups.labels(outcome).inc()

        async def compute_and_keep() -> Encoded:
            encoded = await compute()
            self._keep(key, encoded)
            return encoded

        return await self._flights.run(key, compute_and_keep)

    def _keep(self, key: ImageKey, encoded: Encoded) -> None:
        if encoded.nbytes > self._max_bytes or key in self:
            return
        room = {key.tenant: encoded.nbytes}
        while sum(self._bytes.values()) + encoded.nbytes > self._max_bytes:
            self._evict(max(self._bytes, key=lambda one: self._bytes[one] + room.get(one, 0)))
        self._tenants.setdefault(key.tenant, OrderedDict())[key] = encoded
        self._bytes[key.tenant] = self._bytes.get(key.tenant, 0) + encoded.nbytes
        self._metrics.cache_bytes.set(sum(self._bytes.values()))

    def _evict(self, tenant: str) -> None:
        kept = self._tenants[tenant]
        _, dropped = kept.popitem(last=False)
        self._bytes[tenant] -= dropped.nbytes
        if not kept:
            del self._tenants[tenant], self._bytes[tenant]
        self._metrics.cache_evictions.inc()
