"""Masks for a caller's prompts: the image is encoded once, its prompts are decoded in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cpcsam.contract import DECODER_MAX_BATCH
from cpcsam.v1 import segmentation_pb2 as pb
from serving.call import Call
from serving.chunks import chunk_prompts
from serving.embedding_cache import EmbeddingCache
from serving.images import RequestImage
from serving.together import all_of
from serving.triton_answers import ChunkMasks, Encoded
from serving.triton_client import TritonClient

__all__ = ["PromptedMasks", "Prompting"]

CONCURRENT_CHUNKS: Final = DECODER_MAX_BATCH
"""Chunks of one request that decode at once: as many as one decoder batch holds."""


@dataclass(frozen=True)
class PromptedMasks:
    """Masks of all prompts.

    Attributes:
        chunks: in the prompts' order.
        cached: whether nothing had to be encoded.
    """

    chunks: Sequence[ChunkMasks]
    cached: bool


class Prompting:
    """Answers prompts for one gateway."""

    def __init__(self, triton: TritonClient, cache: EmbeddingCache) -> None:
        self._triton = triton
        self._cache = cache

    async def masks(
        self,
        image: RequestImage,
        prompts: Sequence[pb.Prompt],
        mask_selection: int,
        call: Call,
    ) -> PromptedMasks:
        """Answer checked prompts.

        Args:
            image: that they point into.
            prompts: in the original image's frame.
            mask_selection: a value of `MaskSelection`.
            call: who asks, and until when.

        Raises:
            NotFoundError: the image was only named, and is not known any more.
            CpcSamError: as `TritonClient.segment`.
        """
        chunks = chunk_prompts(prompts)
        answered: list[ChunkMasks] = []

        async def encode() -> Encoded:
            # One call for the image and the first chunk; whoever joins decodes all of its own.
            content = image.require_content()
            masks, encoded = await self._triton.segment(content, chunks[0], mask_selection, call)
            answered.append(masks)
            return encoded

        encoded = await self._cache.get(image.key, encode)
        cached = not answered
        answered += await all_of(
            [
                partial(self._triton.decode, encoded, chunk, mask_selection, call)
                for chunk in chunks[len(answered) :]
            ],
            CONCURRENT_CHUNKS,
        )
        return PromptedMasks(answered, cached)
