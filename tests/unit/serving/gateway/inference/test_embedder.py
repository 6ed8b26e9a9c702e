"""Embedder: tiles and pixels that concurrent requests for one image share."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from serving.gateway.auth.authenticator import EVERYBODY
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.inference.embedder import Embedder, TiledImage
from serving.gateway.inference.embedding_cache import EmbeddingCache, ImageKey
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import CONCURRENT_DECODES, Admission, Permit
from serving.gateway.scheduling.executors import open_executors

SIDE = 64
TILES = [Box(x, y, x + 32, y + 32) for x in (0, 32) for y in (0, 32)]
MODEL = ModelInfo("2.60.0", "1", "vit_t", 256, "d" * 64, "t" * 64, True)
NOISE = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def png(pixels: NDArray[np.uint8] = NOISE) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Encoder:
    """In place of Triton: embeds frames, each after a turn of the event loop, and counts them."""

    def __init__(self) -> None:
        self.frames = 0

    async def encode_frame(
        self, frame: NDArray[np.uint8], sizes: NDArray[np.int32], context: RequestContext
    ) -> NDArray[np.float32]:
        self.frames += 1
        await asyncio.sleep(0.01)
        return np.zeros((1, 256, 16, 16), np.float32)


class Service:
    """An embedder, its encoder and its admission."""

    def __init__(self, executors: Any) -> None:
        self.encoder, limits, metrics = Encoder(), Limits(), Metrics()
        self.admission = Admission(limits, metrics)
        cache = EmbeddingCache(limits.cache_bytes, metrics)
        encoder: Any = self.encoder
        self.embedder = Embedder(encoder, cache, self.admission, limits, executors)

    @asynccontextmanager
    async def tiled(
        self, content: bytes | None, image_id: str = "a" * 64
    ) -> AsyncIterator[TiledImage]:
        async def model(_: float) -> ModelInfo:
            return MODEL

        context = RequestContext("x", EVERYBODY, Permit("x"), monotonic() + 60, model)
        image = RequestImage(ImageKey("", MODEL.model_digest, image_id), (SIDE, SIDE), content)
        async with self.embedder.tiled(image, context) as opened:
            yield opened

    async def embed(self, tiles: list[Box], content: bytes | None, image_id: str = "a" * 64) -> int:
        async with self.tiled(content, image_id) as image:
            return len([await image.embed(tile) for tile in tiles])

    async def require_no_turn_held(self) -> None:
        """Take all turns for images, which waits as long as one is held."""
        async with asyncio.timeout(30):
            turns = [
                await self.admission.acquire_image(Permit(str(n)))
                for n in range(CONCURRENT_DECODES)
            ]
        for release in turns:
            release()


@pytest.fixture
def service() -> Iterator[Service]:
    with open_executors() as executors:
        yield Service(executors)


async def test_requests_that_wait_for_each_others_tiles_share_one_turn(service: Service) -> None:
    content, count = png(), len(TILES)
    orders = [TILES[first:] + TILES[:first] for first in range(count)]
    async with asyncio.timeout(30):
        embedded = await asyncio.gather(*(service.embed(order, content) for order in orders))
    assert embedded == [count] * count
    assert service.encoder.frames == count
    await service.require_no_turn_held()


async def test_pixels_stay_until_the_last_request_has_left(service: Service) -> None:
    async with service.tiled(png()) as first:
        pixels = await first.pixels()
        async with service.tiled(png()) as second:
            assert await second.pixels() is pixels
        async with service.tiled(png()) as third:
            assert await third.pixels() is pixels
            assert (pixels == NOISE).all()
    async with service.tiled(png()) as later:
        assert await later.pixels() is not pixels
    await service.require_no_turn_held()


async def test_request_with_bytes_does_not_share_the_error_of_one_without(service: Service) -> None:
    known, sent = await asyncio.gather(
        service.embed(TILES, None), service.embed(TILES, png()), return_exceptions=True
    )
    assert "send image_bytes again" in str(known)
    assert sent == len(TILES)
    await service.require_no_turn_held()


async def test_cancelled_and_failed_requests_give_their_turns_back(service: Service) -> None:
    for pause_s in (0, 0, 0.001, 0.003, 0.01):
        tasks = [asyncio.create_task(service.embed(TILES, png(), f"{n:064}")) for n in range(6)]
        await asyncio.sleep(pause_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    both = await asyncio.gather(
        *(service.embed(TILES, b"no image", "b" * 64) for _ in range(2)), return_exceptions=True
    )
    assert [type(one) for one in both] == [ContractError] * 2
    await service.require_no_turn_held()
    assert await service.embed(TILES, png()) == len(TILES)
