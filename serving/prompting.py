"""Masks for a caller's prompts: the image is encoded once, its prompts are decoded in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cpcsam.contract import DECODER_MAX_BATCH
from cpcsam.errors import CpcSamError
from cpcsam.status import NotFoundError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.call import Call
from serving.chunks import PromptChunk, chunk_prompts
from serving.embedding_cache import EmbeddingCache, ImageKey
from serving.triton_answers import ChunkMasks, Encoded
from serving.triton_client import TritonClient

__all__ = ["PromptedMasks", "Prompting", "unknown_image"]

CONCURRENT_CHUNKS: Final = DECODER_MAX_BATCH
"""Chunks of one request that decode at once: as many as one decoder batch holds. More would only
stand in the queue before the prompts of others."""


@dataclass(frozen=True)
class PromptedMasks:
    """Masks of all prompts.

    Attributes:
        chunks: in the prompts' order.
        size: (H, W) of the masks.
        cached: whether nothing had to be encoded.
    """

    chunks: Sequence[ChunkMasks]
    size: tuple[int, int]
    cached: bool


class Prompting:
    """Answers prompts with Triton's help."""

    def __init__(self, triton: TritonClient, cache: EmbeddingCache) -> None:
        self._triton = triton
        self._cache = cache

    async def known_image(self, key: ImageKey) -> Encoded:
        """The embedding of an image that was sent before.

        Raises:
            NotFoundError: it is not known any more.
        """

        async def refuse() -> Encoded:
            raise unknown_image(key.image_id)

        return await self._cache.get(key, refuse)

    async def masks(
        self,
        key: ImageKey,
        image: bytes | Encoded,
        prompts: Sequence[pb.Prompt],
        mask_selection: int,
        call: Call,
    ) -> PromptedMasks:
        """Answer checked prompts.

        Args:
            key: of the image.
            image: the image file, or what `known_image` gave.
            prompts: in the original image's frame.
            mask_selection: a value of `MaskSelection`.
            call: who asks, and until when.

        Raises:
            CpcSamError: as `TritonClient.segment`.
        """
        chunks = chunk_prompts(prompts)
        answered: list[ChunkMasks] = []

        async def encode() -> Encoded:
            # One call for the image and the first chunk; whoever joins decodes all of its own.
            assert isinstance(image, bytes)
            masks, encoded = await self._triton.segment(image, chunks[0], mask_selection, call)
            answered.append(masks)
            return encoded

        encoded = image if isinstance(image, Encoded) else await self._cache.get(key, encode)
        cached = not answered
        answered += await self._decode(encoded, chunks[len(answered) :], mask_selection, call)
        return PromptedMasks(answered, encoded.size, cached)

    async def _decode(
        self, encoded: Encoded, chunks: Sequence[PromptChunk], mask_selection: int, call: Call
    ) -> list[ChunkMasks]:
        """Decode chunks side by side; the first failure cancels the others."""
        places = asyncio.Semaphore(CONCURRENT_CHUNKS)

        async def decode(chunk: PromptChunk) -> ChunkMasks:
            async with places:
                return await self._triton.decode(encoded, chunk, mask_selection, call)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(decode(chunk)) for chunk in chunks]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]


def unknown_image(image_id: str) -> CpcSamError:
    """Error for an image that is not known any more."""
    return NotFoundError.of(
        "image_id",
        got=f"{image_id[:12]}..., which is not known (any more)",
        expected="an image that was sent before",
        fix="send image_bytes again",
    )
