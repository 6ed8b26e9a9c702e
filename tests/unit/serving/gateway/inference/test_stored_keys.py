"""Calls by the key of an embedding, which is sent where Triton does not keep it."""

from __future__ import annotations

import asyncio

import pytest

from cpcsam.errors import ServingError
from serving.gateway.inference.stored_keys import MAX_KEYS, StoredKeys
from serving.gateway.inference.triton_responses import NotStoredError


class Triton:
    """Keeps embeddings by key, and notes each call."""

    def __init__(self) -> None:
        self.kept: set[bytes] = set()
        self.calls: list[str] = []
        self.keys = StoredKeys()

    async def call(self, key: bytes) -> str:
        return await self.keys.call(key, lambda: self.by_key(key), lambda: self.send(key))

    async def by_key(self, key: bytes) -> str:
        self.calls.append("key")
        await asyncio.sleep(0)
        if key not in self.kept:
            raise NotStoredError("image_key: got a key without an embedding")
        return "masks"

    async def send(self, key: bytes) -> str:
        self.calls.append("embedding")
        await asyncio.sleep(0)
        self.kept.add(key)
        return "masks"


async def test_the_first_call_sends_the_embedding_and_later_ones_the_key() -> None:
    triton = Triton()
    assert [await triton.call(b"a") for _ in range(3)] == ["masks"] * 3
    assert triton.calls == ["embedding", "key", "key"]


async def test_an_embedding_that_came_with_its_image_is_not_sent() -> None:
    triton = Triton()
    triton.kept.add(b"a")
    triton.keys.add(b"a")
    await triton.call(b"a")
    assert triton.calls == ["key"]


async def test_calls_at_a_time_send_an_embedding_once() -> None:
    triton = Triton()
    assert await asyncio.gather(*(triton.call(b"a") for _ in range(5))) == ["masks"] * 5
    assert triton.calls == ["embedding", *["key"] * 4]


async def test_an_embedding_that_was_forgotten_is_sent_again() -> None:
    triton = Triton()
    await triton.call(b"a")
    triton.kept.clear()
    assert await asyncio.gather(*(triton.call(b"a") for _ in range(3))) == ["masks"] * 3
    assert triton.calls.count("embedding") == 2
    await triton.call(b"a")
    assert triton.calls[-1] == "key"


async def test_another_failure_is_raised_and_keeps_the_key() -> None:
    triton = Triton()
    await triton.call(b"a")

    async def fail() -> str:
        raise ServingError("no")

    with pytest.raises(ServingError, match="^no$"):
        await triton.keys.call(b"a", fail, fail)
    await triton.call(b"a")
    assert triton.calls == ["embedding", "key"]


async def test_a_failure_to_send_leaves_the_next_call_to_send() -> None:
    triton = Triton()

    async def fail() -> str:
        raise ServingError("no")

    with pytest.raises(ServingError):
        await triton.keys.call(b"a", fail, fail)
    await triton.call(b"a")
    assert triton.calls == ["embedding"]


def test_keys_are_bounded() -> None:
    keys = StoredKeys()
    for number in range(MAX_KEYS + 5):
        keys.add(str(number).encode())
    assert len(keys._keys) == MAX_KEYS and b"0" not in keys._keys
