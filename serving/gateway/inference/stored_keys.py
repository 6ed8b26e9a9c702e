"""Keys of the embeddings that Triton keeps, as far as the gateway knows."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from serving.gateway.inference.triton_responses import NotStoredError

__all__ = ["StoredKeys"]

MAX_KEYS: Final = 65_536
Result = TypeVar("Result")


class StoredKeys:
    """Keys that were sent with their embeddings; to be used inside one event loop.

    Triton forgets embeddings when its store is full or when it is restarted. Then the next call
    fails with NotStoredError, and the embedding is sent again.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self._sending: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    def add(self, key: bytes) -> None:
        """Note that Triton keeps an embedding."""
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)

    async def call(
        self,
        key: bytes,
        by_key: Callable[[], Awaitable[Result]],
        with_embedding: Callable[[], Awaitable[Result]],
    ) -> Result:
        """Call Triton by the key if it keeps the embedding, else send the embedding.

        Of calls at a time whose embedding is not kept, one sends it and the others wait for that.

        Args:
            key: of the embedding.
            by_key: raises NotStoredError if Triton does not keep it.
            with_embedding: makes Triton keep it.
        """
        result = await self._by_key(key, by_key)
        if result is not None:
            return result
        async with self._sending.setdefault(key, asyncio.Lock()):
            result = await self._by_key(key, by_key)
            if result is not None:
                return result
            result = await with_embedding()
            self.add(key)
            return result

    async def _by_key(self, key: bytes, by_key: Callable[[], Awaitable[Result]]) -> Result | None:
        if key not in self._keys:
            return None
        try:
            return await by_key()
        except NotStoredError:
            self._keys.pop(key, None)
            return None
