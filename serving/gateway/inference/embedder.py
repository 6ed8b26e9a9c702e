"""Embeddings of images and tiles, through the cache."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.class_search import EncodedTile
from cpcsam.contract import IMAGE_ENCODER
from cpcsam.entry_points import ENCODE, SEGMENT
from cpcsam.geometry import Box
from cpcsam.images.options import ReadOptions
from cpcsam.images.reading import decode_image
from cpcsam.transforms import to_frame
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedding_cache import EmbeddingCache, ImageKey
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.inference.single_flight import SingleFlight
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.inference.triton_responses import Encoded
from serving.gateway.limits import Limits
from serving.gateway.phases import DECODE, QUEUE
from serving.gateway.scheduling.admission import Admission
from serving.gateway.scheduling.call_times import CallKind
from serving.gateway.scheduling.executors import Executors

__all__ = ["Embedder", "SharedPixels", "TiledImage", "shown_tile"]

Pixels = NDArray[np.uint8]
EncodeWhole = Callable[[bytes], Awaitable[Encoded]]


@dataclass
class _OpenImage:
    """An image that requests have taken.

    Attributes:
        users: requests that have taken it and not given it back.
        pixels: (H, W, 3) uint8, once it is decoded.
        release: ends its turn to be held.
    """

    users: int = 0
    pixels: Pixels | None = None
    release: Callable[[], None] | None = None

    def close(self) -> None:
        """End the turn, if there is one."""
        release, self.release = self.release, None
        if release is not None:
            release()


class SharedPixels:
    """Decoded images, each held once and in one turn for all requests that need it meanwhile.

    Requests wait for the tiles that others encode. Were each to hold a turn for the same image, two
    could wait for tiles of a third that waits for a turn. To be used inside one event loop.
    """

    def __init__(self, admission: Admission, limits: Limits, executors: Executors) -> None:
        self._admission = admission
        self._max_pixels = limits.max_pixels
        self._executors = executors
        self._open: dict[ImageKey, _OpenImage] = {}
        self._decoding: SingleFlight[ImageKey, Pixels] = SingleFlight()

    async def take(self, image: RequestImage, context: RequestContext) -> Pixels:
        """Return an image, (H, W, 3) uint8, to be given back by `give_back`.

        Raises:
            NotFoundError: the request only referenced it.
            CpcSamError: it cannot be decoded, or its turn did not come in time.
        """
        key = image.key
        taken = self._open.setdefault(key, _OpenImage())
        taken.users += 1
        try:
            if taken.pixels is not None:
                return taken.pixels
            decode = partial(self._decode, taken, image, context)
            if not self._decoding.is_running(key):
                return await self._decoding.run(key, decode)
            with context.phases.measure(QUEUE):  # another request decodes it
                return await self._decoding.run(key, decode)
        except BaseException:
            self.give_back(key)
            raise

    def give_back(self, key: ImageKey) -> None:
        """Free an image with the last request that has taken it."""
        taken = self._open[key]
        taken.users -= 1
        if not taken.users:
            del self._open[key]
            taken.close()

    async def _decode(
        self, taken: _OpenImage, image: RequestImage, context: RequestContext
    ) -> Pixels:
        content = image.require_content()
        # Pixels take far more memory than the file: few images are decoded at a time.
        with context.phases.measure(QUEUE):
            taken.release = await self._admission.acquire_image(context.permit, context.deadline)
        try:
            model = await context.model()
            options = (image.key.options or ReadOptions()).or_intensity(model.intensity)
            with context.phases.measure(DECODE):
                taken.pixels = await self._executors.pixels_of(image.size).run(
                    context.permit.client, decode_image, content, self._max_pixels, options
                )
        except BaseException:
            taken.close()
            raise
        return taken.pixels


class Embedder:
    """Image encoder of one gateway: the embedding cache in front of Triton.

    To be used inside one event loop.
    """

    def __init__(
        self,
        triton: TritonClient,
        cache: EmbeddingCache,
        admission: Admission,
        limits: Limits,
        executors: Executors,
    ) -> None:
        self.triton = triton
        self.cache = cache
        self.admission = admission
        self.limits = limits
        self.executors = executors
        self.pixels = SharedPixels(admission, limits, executors)

    def tiled(self, image: RequestImage, context: RequestContext) -> TiledImage:
        """Open a request's image for tile-wise embedding."""
        return TiledImage(self, image, context)


class TiledImage:
    """Lazily decoded image of one request, embedded tile by tile; an async context manager.

    Its pixels are taken at the first tile that is not in the cache, and given back with the block.

    Attributes:
        cached: True until something had to be encoded.
    """

    def __init__(self, embedder: Embedder, image: RequestImage, context: RequestContext) -> None:
        self._embedder = embedder
        self._image = image
        self._context = context
        self.cached = True
        self._pixels: asyncio.Task[Pixels] | None = None

    async def __aenter__(self) -> TiledImage:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pixels is not None:
            self._pixels.cancel()
            self._pixels.add_done_callback(self._give_back)
            self._pixels = None

    def _give_back(self, pixels: asyncio.Task[Pixels]) -> None:
        if not pixels.cancelled() and pixels.exception() is None:
            self._embedder.pixels.give_back(self._image.key)

    async def claim(
        self,
        tiles: Sequence[Box],
        decodes: Mapping[CallKind, int],
        together: CallKind | None = None,
    ) -> None:
        """Claim Triton's time for the calls of the request, before the first of them.

        Args:
            tiles: that are going to be embedded; those in the cache take no time.
            decodes: calls that decode.
            together: the one of them that embeds the whole image in the same call, if any.

        Raises:
            FullError: as `Admission.claim`.
        """
        calls, decoded = Counter[CallKind](), Counter(decodes)
        for tile in tiles:
            whole = self._is_read_whole(tile)
            key = self._image.key if whole else replace(self._image.key, tile=tile)
            if self._embedder.cache.is_known(key):
                continue
            if whole and together is not None:
                decoded[together] -= 1
                calls[CallKind(SEGMENT.name, together.prompts)] += 1
            else:
                calls[CallKind(ENCODE.name if whole else IMAGE_ENCODER.name)] += 1
        with self._context.phases.measure(QUEUE):
            await self._embedder.admission.claim(
                self._context.permit, calls + decoded, self._context.deadline
            )

    async def embed(self, tile: Box, encode_whole: EncodeWhole | None = None) -> Encoded:
        """Return the embedding of a tile; masks decoded from it have the tile's size.

        Args:
            tile: part of the image, or the whole.
            encode_whole: encodes the whole image from its file, possibly in one call with more;
                None uses `TritonClient.encode`.

        Raises:
            CpcSamError: as `TritonClient.encode`.
        """
        if self._is_read_whole(tile):
            encode = encode_whole or partial(
                self._embedder.triton.encode, self._image.key.digest, context=self._context
            )
            return await self._cached(self._image.key, lambda: self._encode_whole(encode))
        key = replace(self._image.key, tile=tile)
        return await self._cached(key, lambda: self._encode(key, tile))

    async def show(self, tile: Box) -> EncodedTile:
        """Embed a tile for the class search; see `embed`."""
        return shown_tile(tile, await self.embed(tile))

    async def pixels(self) -> Pixels:
        """Return the image (H, W, 3) uint8, decoded once.

        Raises:
            NotFoundError: the request only referenced it.
        """
        if self._pixels is None:
            taking = self._embedder.pixels.take(self._image, self._context)
            self._pixels = asyncio.create_task(taking)
        # Shielded: other parts of the request await the same task.
        return await asyncio.shield(self._pixels)

    def _is_read_whole(self, tile: Box) -> bool:
        """Whether Triton decodes the image: whole images alone, by the model's own policy."""
        return tile == Box(0, 0, *self._image.size) and self._image.key.options is None

    async def _cached(self, key: ImageKey, compute: Callable[[], Awaitable[Encoded]]) -> Encoded:
        cache = self._embedder.cache
        if key in cache or not cache.is_known(key):
            return await cache.get(key, compute)
        with self._context.phases.measure(QUEUE):  # another request computes it
            return await cache.get(key, compute)

    async def _encode_whole(self, encode: EncodeWhole) -> Encoded:
        self.cached = False
        return await encode(self._image.require_content())

    async def _encode(self, key: ImageKey, tile: Box) -> Encoded:
        self.cached = False
        pixels = await self.pixels()
        model = await self._context.model()
        with self._context.phases.measure(DECODE):
            frame, input_size = await self._embedder.executors.pixels.run(
                self._context.permit.client, to_frame, tile.crop(pixels), model.image_size
            )
        sizes = np.array([input_size], np.int32)
        embeddings = await self._embedder.triton.encode_frame(frame[None], sizes, self._context)
        return Encoded(key.digest, embeddings, sizes, np.array([tile.size], np.int32))


def shown_tile(tile: Box, encoded: Encoded) -> EncodedTile:
    """Return a tile as the class search takes it."""
    height, width = (int(side) for side in encoded.input_size[0])
    return EncodedTile(tile, (height, width), encoded.image_embeddings[0])
