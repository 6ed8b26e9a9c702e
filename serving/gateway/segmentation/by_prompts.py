"""Segmentation by prompts: the image is encoded once, its prompts are decoded in chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.tiling import is_cut, tile_around
from cpcsam.contract import DECODER_MAX_BATCH
from cpcsam.entry_points import DECODE, DECODE_WITH_MASK
from cpcsam.geometry import EMPTY_BOX, Box
from cpcsam.grpc_errors import LimitError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.call_kinds import decodes
from serving.gateway.inference.embedder import Embedder, TiledImage
from serving.gateway.inference.prompt_batches import PromptChunk, chunk_prompts
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.inference.triton_responses import ChunkMasks, Encoded
from serving.gateway.phases import POSTPROCESS
from serving.gateway.scheduling.call_times import CallKind
from serving.gateway.scheduling.concurrency import gather_limited
from serving.gateway.segmentation.tiles import Tiles
from serving.gateway.validation.prompts import needed_box, part_of

__all__ = ["CONCURRENT_CHUNKS", "PromptMasks", "PromptSegmenter", "PromptedMasks", "instance_of"]

CONCURRENT_CHUNKS: Final = DECODER_MAX_BATCH
"""Chunks of one request that decode at once: as many as one decoder batch holds."""


@dataclass(frozen=True)
class PromptMasks:
    """The M masks of one prompt.

    Attributes:
        masks: in the image.
        low_res_masks: (M, 4G, 4G) logits of the part of the image that was decoded, if requested.
        point_coords: (N, 2) float32, pixels of the image, the prompt's points and then its box's
            corners as the model took them; None if it calibrates no prompts. What follows is
            padding.
    """

    masks: Sequence[InstanceMask]
    low_res_masks: NDArray[np.float32] | None
    point_coords: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PromptedMasks:
    """Masks of all prompts, in order.

    Attributes:
        prompts: the masks of each prompt.
        cached: whether every embedding came from the cache.
    """

    prompts: Sequence[PromptMasks]
    cached: bool


class PromptSegmenter:
    """Segments by prompts for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def segment(
        self,
        image: RequestImage,
        request: pb.SegmentRequest,
        tiles: Tiles,
        context: RequestContext,
    ) -> PromptedMasks:
        """Segment by validated prompts.

        Args:
            image: of the request.
            request: with prompts.
            tiles: in which the prompts are answered.
            context: of the request.

        Raises:
            NotFoundError: the image was given by image_id and is not cached any more.
            CpcSamError: as `TritonClient.segment`.
        """
        tells = (await context.model()).calibrates
        calibrate = not request.without_calibration if tells else None
        async with self._embedder.tiled(image, context) as tiled:
            prompts = _Prompts(self._embedder, image, request, tiles, context, tiled, calibrate)
            return PromptedMasks(await prompts.segment(), tiled.cached)


class _Prompts:
    """The prompts of one request."""

    def __init__(
        self,
        embedder: Embedder,
        image: RequestImage,
        request: pb.SegmentRequest,
        tiles: Tiles,
        context: RequestContext,
        tiled: TiledImage,
        calibrate: bool | None,
    ) -> None:
        self._triton = embedder.triton
        self._max_tiles = embedder.limits.max_tiles
        self._image = image
        self._request = request
        self._tiles = tiles
        self._context = context
        self._tiled = tiled
        self._calibrate = calibrate
        self._whole = Box(0, 0, *image.size)

    async def segment(self) -> list[PromptMasks]:
        """Decode each prompt in a part of the image, in a larger part while that cuts its mask.

        Once these parts are `max_tiles`, the larger part is the whole image.

        Raises:
            LimitError: the prompts lie in more tiles than that.
        """
        prompts = self._request.prompts
        parts = {index: self._part(prompt) for index, prompt in enumerate(prompts)}
        if (count := len(set(parts.values()))) > self._max_tiles:
            raise LimitError.of(
                "tiles",
                got=f"prompts in {count} tiles of the image",
                expected=f"at most {self._max_tiles}",
                fix="take larger tiles, or ask for fewer prompts at a time",
            )
        await self._claim(_grouped(parts))
        masks: dict[int, PromptMasks] = {}
        shown: set[Box] = set()
        while parts:
            shown.update(parts.values())
            by_part = _grouped(parts)
            masks |= dict(
                pair
                for pairs in await gather_limited(
                    [
                        partial(self._segment_part, part, indices)
                        for part, indices in by_part.items()
                    ]
                )
                for pair in pairs
            )
            parts = {
                index: self._part(prompts[index], self._larger(part, len(shown) + len(parts)))
                for index, part in parts.items()
                if self._is_cut(prompts[index], masks[index].masks)
            }
        return [masks[index] for index in range(len(prompts))]

    def _larger(self, part: Box, shown: int) -> int:
        """Return the side of the next larger part; 0, the whole image, if that is one too many."""
        return 2 * max(part.size) if shown <= self._max_tiles else 0

    async def _claim(self, by_part: Mapping[Box, Sequence[int]]) -> None:
        """Claim the calls of the first decode of each prompt."""
        calls, first = Counter[CallKind](), None
        for part, indices in by_part.items():
            masked = sum(self._request.prompts[index].HasField("mask_input") for index in indices)
            plain = decodes(DECODE.name, len(indices) - masked)
            calls += plain + decodes(DECODE_WITH_MASK.name, masked)
            if part == self._whole:
                first = next(iter(plain), None)
        await self._tiled.claim([*by_part], calls, first)

    def _part(self, prompt: pb.Prompt, side: int | None = None) -> Box:
        """Choose the part of the image to decode a prompt in: a tile of the request or larger."""
        if prompt.HasField("mask_input"):
            return part_of(prompt.mask_input, self._image.size)
        side = self._tiles.side if side is None else side
        return tile_around(self._image.size, side, self._tiles.overlap, needed_box(prompt))

    def _is_cut(self, prompt: pb.Prompt, masks: Sequence[InstanceMask]) -> bool:
        best = max(masks, key=lambda mask: mask.score)
        return best.is_cut and not prompt.HasField("mask_input")

    async def _segment_part(
        self, part: Box, indices: Sequence[int]
    ) -> list[tuple[int, PromptMasks]]:
        """Segment by the prompts of one part; return their masks by the prompt's index."""
        prompts = self._request.prompts
        by_mask = [
            [index for index in indices if prompts[index].HasField("mask_input") == wanted]
            for wanted in (False, True)
        ]
        chunks = [
            chunk
            for group in by_mask
            for chunk in chunk_prompts([prompts[index] for index in group], part, self._calibrate)
        ]
        decoded = await self._decode(part, chunks)
        with self._context.phases.measure(POSTPROCESS):
            masks = _instances(decoded, part, self._image.size)
        return list(zip((index for group in by_mask for index in group), masks, strict=True))

    async def _decode(self, part: Box, chunks: Sequence[PromptChunk]) -> list[ChunkMasks]:
        selection, low_res = self._request.mask_selection, self._request.return_low_res_masks
        decoded: list[ChunkMasks] = []

        async def encode_and_decode(content: bytes) -> Encoded:
            # One call for the image and the first chunk; requests that share the encoding (single
            # flight) decode all of their own chunks.
            masks, encoded = await self._triton.segment(
                self._image.key.digest,
                content,
                chunks[0],
                selection,
                self._context,
                low_res=low_res,
            )
            decoded.append(masks)
            return encoded

        together = part == self._whole and chunks[0].mask_input is None
        encoded = await self._tiled.embed(part, encode_and_decode if together else None)
        decoded += await gather_limited(
            [
                partial(
                    self._triton.decode, encoded, chunk, selection, self._context, low_res=low_res
                )
                for chunk in chunks[len(decoded) :]
            ],
            CONCURRENT_CHUNKS,
        )
        return decoded


def _grouped(parts: Mapping[int, Box]) -> dict[Box, list[int]]:
    """Group the indices of prompts by the part of the image that they are decoded in."""
    by_part: dict[Box, list[int]] = {}
    for index, part in parts.items():
        by_part.setdefault(part, []).append(index)
    return by_part


def _instances(chunks: Sequence[ChunkMasks], part: Box, size: tuple[int, int]) -> list[PromptMasks]:
    """Split chunks into the masks of each prompt, in the image of size (H, W)."""
    return [
        PromptMasks(
            [
                instance_of(chunk, (row, column), part, size)
                for column in range(chunk.counts.shape[1])
            ],
            None if chunk.low_res_masks is None else chunk.low_res_masks[row],
            None if chunk.point_coords is None else chunk.point_coords[row] + (part.left, part.top),
        )
        for chunk in chunks
        for row in range(len(chunk.counts))
    ]


def instance_of(
    chunk: ChunkMasks,
    index: tuple[int, int],
    part: Box,
    size: tuple[int, int],
    point: tuple[float, float] = (0.0, 0.0),
) -> InstanceMask:
    """Return one mask of a chunk.

    Args:
        chunk: decoded in a part of the image.
        index: of the prompt and of its mask.
        part: of the image.
        size: (H, W) of the image.
        point: (X, Y) of the prompt, pixels of the image.
    """
    area = int(chunk.areas[index])
    left, top, right, bottom = (int(side) for side in chunk.bboxes[index])
    bbox = Box(top, left, bottom, right).translate(part.top, part.left) if area else EMPTY_BOX
    return InstanceMask(
        bbox=bbox,
        area=area,
        counts=chunk.counts[index],
        frame=part,
        score=float(chunk.scores[index]),
        tile=part,
        is_cut=area > 0 and is_cut(bbox, part, size),
        stability=float(chunk.stability[index]),
        point=point,
    )
