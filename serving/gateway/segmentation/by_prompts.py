"""Masks for a caller's prompts: the image is encoded once, its prompts are decoded in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.rle import area_of_rle, mask_from_rle, rle_of_part
from cpcsam.automatic.tiling import TILE_OVERLAP, Tile, is_cut, tile_around
from cpcsam.contract import DECODER_MAX_BATCH
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedder import Embedder, TiledImage
from serving.gateway.inference.prompt_batches import PromptChunk, chunk_prompts
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.inference.triton_responses import ChunkMasks, Encoded
from serving.gateway.scheduling.gather import gather_limited
from serving.gateway.validation.prompts import needed_box, part_of

__all__ = ["CONCURRENT_CHUNKS", "PromptMasks", "PromptedMasks", "Prompting"]

CONCURRENT_CHUNKS: Final = DECODER_MAX_BATCH
"""Chunks of one request that decode at once: as many as one decoder batch holds."""


@dataclass(frozen=True)
class PromptMasks:
    """The M masks of one prompt.

    Attributes:
        part: of the image, that was shown to the model.
        counts: (M,) COCO run lengths in the whole image, as bytes.
        scores: (M,), predicted IoU.
        stability: (M,).
        low_res_masks: (M, 4G, 4G) logits of the part, where they were asked for.
    """

    part: Tile
    counts: Sequence[bytes]
    scores: NDArray[np.float32]
    stability: NDArray[np.float32]
    low_res_masks: NDArray[np.float32] | None


@dataclass(frozen=True)
class PromptedMasks:
    """Masks of all prompts, in order, and whether nothing had to be encoded."""

    prompts: Sequence[PromptMasks]
    cached: bool


class Prompting:
    """Answers prompts for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def masks(
        self, image: RequestImage, request: pb.SegmentRequest, context: RequestContext
    ) -> PromptedMasks:
        """Answer checked prompts.

        Args:
            image: that they point into.
            request: what is asked for.
            context: of the request.

        Raises:
            NotFoundError: the image was only named, and is not known any more.
            CpcSamError: as `TritonClient.segment`.
        """
        async with self._embedder.tiled(image, context) as tiled:
            asked = _Prompts(self._embedder, image, request, context, tiled)
            return PromptedMasks(await asked.answer(), tiled.cached)


class _Prompts:
    """The prompts of one request."""

    def __init__(
        self,
        embedder: Embedder,
        image: RequestImage,
        request: pb.SegmentRequest,
        context: RequestContext,
        tiled: TiledImage,
    ) -> None:
        self._triton = embedder.triton
        self._image = image
        self._request = request
        self._context = context
        self._tiled = tiled
        self._whole = Tile(0, 0, *image.size)

    async def answer(self) -> list[PromptMasks]:
        """Show each prompt in a part of the image, in a larger one while that cuts its mask."""
        prompts = self._request.prompts
        parts = {index: self._part(prompt) for index, prompt in enumerate(prompts)}
        answers: dict[int, PromptMasks] = {}
        while parts:
            shown: dict[Tile, list[int]] = {}
            for index, part in parts.items():
                shown.setdefault(part, []).append(index)
            answers |= dict(
                pair
                for pairs in await gather_limited(
                    [partial(self._show, part, indices) for part, indices in shown.items()]
                )
                for pair in pairs
            )
            parts = {
                index: self._part(prompts[index], side=2 * max(part.size))
                for index, part in parts.items()
                if self._is_cut(prompts[index], answers[index])
            }
        return [answers[index] for index in range(len(prompts))]

    def _part(self, prompt: pb.Prompt, side: int | None = None) -> Tile:
        """The part of the image in which a prompt is shown, in tiles of the request or larger."""
        if prompt.HasField("mask_input"):
            return part_of(prompt.mask_input, self._image.size)
        request = self._request
        overlap = request.tile_overlap if request.HasField("tile_overlap") else TILE_OVERLAP
        side = request.tile_size if side is None else side
        return tile_around(self._image.size, side, overlap, needed_box(prompt))

    def _is_cut(self, prompt: pb.Prompt, masks: PromptMasks) -> bool:
        if masks.part == self._whole or prompt.HasField("mask_input"):
            return False
        area = area_of_rle(masks.counts[int(masks.scores.argmax())], self._image.size)
        return area is not None and is_cut(area, masks.part, self._image.size)

    async def _show(self, part: Tile, indices: Sequence[int]) -> list[tuple[int, PromptMasks]]:
        """Masks of the prompts that are shown in one part."""
        prompts = self._request.prompts
        by_mask = [
            [index for index in indices if prompts[index].HasField("mask_input") == wanted]
            for wanted in (False, True)
        ]
        chunks = [
            chunk
            for group in by_mask
            for chunk in chunk_prompts([prompts[index] for index in group], part)
        ]
        found = await self._decode(part, chunks)
        told = await asyncio.to_thread(_in_image, found, part, self._image.size)
        return list(zip((index for group in by_mask for index in group), told, strict=True))

    async def _decode(self, part: Tile, chunks: Sequence[PromptChunk]) -> list[ChunkMasks]:
        selection, low_res = self._request.mask_selection, self._request.return_low_res_masks
        answered: list[ChunkMasks] = []

        async def encode_and_answer(content: bytes) -> Encoded:
            # One call for the image and the first chunk; whoever joins decodes all of its own.
            masks, encoded = await self._triton.segment(
                content, chunks[0], selection, self._context, low_res=low_res
            )
            answered.append(masks)
            return encoded

        together = part == self._whole and chunks[0].mask_input is None
        encoded = await self._tiled.embed(part, encode_and_answer if together else None)
        answered += await gather_limited(
            [
                partial(
                    self._triton.decode, encoded, chunk, selection, self._context, low_res=low_res
                )
                for chunk in chunks[len(answered) :]
            ],
            CONCURRENT_CHUNKS,
        )
        return answered


def _in_image(chunks: Sequence[ChunkMasks], part: Tile, size: tuple[int, int]) -> list[PromptMasks]:
    """Take the chunks apart, and tell masks of a part as masks of the image."""
    told = []
    for chunk in chunks:
        for row, counts in enumerate(chunk.counts):
            if part.size != size:
                masks = [mask_from_rle(one, part.size) for one in counts]
                counts = [rle_of_part(mask, part, size) for mask in masks]
            low_res_masks = None if chunk.low_res_masks is None else chunk.low_res_masks[row]
            told.append(
                PromptMasks(
                    part, list(counts), chunk.scores[row], chunk.stability[row], low_res_masks
                )
            )
    return told
