"""Step `embedding_store`: image embeddings that later calls name by a key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import IMAGE_EMBEDDINGS
from cpcsam.entry_points import IMAGE_KEY, STORED_EMBEDDINGS
from cpcsam.errors import ConfigError
from serving.backend.step import Execute, NotStoredError, Request, Settings, Tensors, each

__all__ = ["EmbeddingStore", "open_embedding_store"]

MAX_BYTES: Final = "embedding_store_bytes"
"""Parameter of the model: bound of the sum of all embeddings."""


class EmbeddingStore:
    """Embeddings by key, bounded in bytes: the least recently used ones leave; thread-safe.

    Args:
        max_bytes: bound of the sum of all embeddings.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of_settings(cls, settings: Settings) -> EmbeddingStore:
        """Make the store that a model's parameters describe.

        Raises:
            ConfigError: they state no size, or one that holds no embedding.
        """
        store, image_size = cls(settings.integer(MAX_BYTES)), settings.integer("image_size")
        shape = [abs(size) for size in IMAGE_EMBEDDINGS.shape(image_size)]
        least = int(np.prod(shape)) * np.dtype(IMAGE_EMBEDDINGS.dtype).itemsize
        if store._max_bytes < least:
            raise ConfigError.of(
                f"{settings.name}/config.pbtxt, parameter {MAX_BYTES}",
                got=store._max_bytes,
                expected=f"at least {least}, an embedding",
                fix="raise it",
            )
        return store

    def take(self, request: Request) -> NDArray[Any]:
        """Return the embedding that a request brings or names, and keep it if it has a key.

        Args:
            request: image_key (1, 1), image_embeddings (1, C, G, G) or both.

        Returns:
            (1, C, G, G).

        Raises:
            NotStoredError: it brings none, and none is kept under the key.
        """
        named = request.tensors.get(IMAGE_KEY.name)
        key = b"" if named is None else bytes(named.item())
        embeddings = request.tensors.get(IMAGE_EMBEDDINGS.name)
        with self._lock:
            if embeddings is not None:
                self._keep(key, embeddings)
                return embeddings
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        raise NotStoredError.of(
            IMAGE_KEY.name,
            got="a key without an embedding",
            expected="one of an earlier call",
            fix="send image_embeddings with it",
        )

    def _keep(self, key: bytes, embeddings: NDArray[Any]) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        if not key or embeddings.nbytes > self._max_bytes:
            return
        self._bytes += embeddings.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        # Triton frees a request's arrays once it is answered.
        self._kept[key] = embeddings.copy()


def open_embedding_store(settings: Settings) -> Execute:
    """Open `embedding_store` for the image_size and embedding_store_bytes of the settings.

    Raises:
        ConfigError: a parameter is missing or too small.
    """
    store = EmbeddingStore.of_settings(settings)

    def stored(request: Request) -> Tensors:
        return {STORED_EMBEDDINGS.name: store.take(request)}

    return each(stored)
