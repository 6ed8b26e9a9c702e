"""Everything in an image, by the steps of `cpcsam.automatic.mask_generator` with Triton's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import numpy as np

from cpcsam.automatic.mask_generator import (
    Candidate,
    EverythingSettings,
    View,
    best_of_crops,
    judge,
    merged_tiles,
    views_of,
)
from cpcsam.automatic.mask_merging import FoundMask
from cpcsam.automatic.tiling import TILE_OVERLAP
from cpcsam.contract import PROMPT_BUCKETS, MaskSelection, PointLabel
from cpcsam.grpc_errors import LimitError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedder import Embedder, TiledImage
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.limits import Limits
from serving.gateway.scheduling.gather import gather_limited
from serving.gateway.segmentation.by_class import tiles_within
from serving.gateway.segmentation.by_prompts import CONCURRENT_CHUNKS

__all__ = ["EverythingSearch"]

MAX_MERGED_PIXELS: Final = 2**30
"""Room of the masks that tiles give to be merged, a byte a pixel of their boxes."""
BATCH: Final = PROMPT_BUCKETS[-1]


class EverythingSearch:
    """Finds everything in images for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def find(
        self,
        image: RequestImage,
        request: pb.SegmentRequest,
        settings: EverythingSettings,
        context: RequestContext,
    ) -> tuple[Iterable[FoundMask], bool]:
        """Find everything, view by view.

        Args:
            image: to look in.
            request: with tiles or without.
            settings: how to look.
            context: of the request.

        Returns:
            Masks in the image, best first, unpacked one by one as they are read; and whether
            nothing had to be encoded.

        Raises:
            LimitError: too many tiles or clicks, or masks too large to be merged.
            NotFoundError: the image was only named, and some part is not known any more.
        """
        side, size = request.tile_size, image.size
        overlap = request.tile_overlap if request.HasField("tile_overlap") else TILE_OVERLAP
        _check_work(size, settings, side, overlap, self._embedder.limits)
        views = views_of(size, settings, side, overlap)
        async with self._embedder.tiled(image, context) as tiled:
            seen = await gather_limited(
                [partial(self._look, view, tiled, settings, context) for view in views]
            )
        if not side:
            best = await asyncio.to_thread(best_of_crops, seen, size, settings)
            return (one.unpacked(size) for one in best), tiled.cached
        _check_room(seen)
        return await asyncio.to_thread(merged_tiles, views, seen, size, settings), tiled.cached

    async def _look(
        self, view: View, tiled: TiledImage, settings: EverythingSettings, context: RequestContext
    ) -> list[Candidate]:
        """The good masks of all clicks of a view; others are forgotten batch by batch."""
        encoded = await tiled.embed(view.part)
        height, width = (int(side) for side in encoded.input_size[0])
        image_size = (await context.model()).image_size
        labels = np.full((len(view.clicks), 1), PointLabel.FOREGROUND, np.int32)
        chunks = chunk_tensors(view.clicks[:, None], labels)

        async def click(start: int) -> list[Candidate]:
            answer = await self._embedder.triton.decode_logits(
                encoded, chunks[start // BATCH], MaskSelection.ALL, context
            )
            clicks = view.clicks[start : start + BATCH]
            return await asyncio.to_thread(
                judge, view, clicks, answer, (height, width), image_size, settings
            )

        parts = await gather_limited(
            [partial(click, start) for start in range(0, len(view.clicks), BATCH)],
            2 * CONCURRENT_CHUNKS,  # while some are judged, others are decoded
        )
        return [one for part in parts for one in part]


def _check_work(
    size: tuple[int, int],
    settings: EverythingSettings,
    side: int,
    overlap: float,
    limits: Limits,
) -> None:
    """Refuse more tiles or clicks than are allowed, before any is laid out."""
    if side:
        tiles = len(tiles_within(size, side, overlap, limits.max_tiles))
        clicks = tiles * settings.points_per_side**2
    else:
        layers = range(settings.crop_layers + 1)
        tiles = sum(4**layer for layer in layers)
        points = [settings.points_per_side // settings.crop_points_divisor**i for i in layers]
        clicks = sum(4**layer * max(points[layer], 1) ** 2 for layer in layers)
    for what, got, most in (
        ("crops", tiles, limits.max_tiles),
        ("clicks", clicks, limits.max_clicks),
    ):
        if got > most:
            raise LimitError.of(
                f"everything, {what}",
                got=got,
                expected=f"at most {most}",
                fix="lower points_per_side or crop_layers, or take larger tiles",
            )


def _check_room(seen: Sequence[Sequence[Candidate]]) -> None:
    pixels = sum(one.area.size[0] * one.area.size[1] for part in seen for one in part)
    if pixels > MAX_MERGED_PIXELS:
        raise LimitError.of(
            "everything",
            got=f"masks of {pixels} pixels in all",
            expected=f"at most {MAX_MERGED_PIXELS} in tiles",
            fix="raise min_iou or min_stability, or take smaller tiles",
        )
