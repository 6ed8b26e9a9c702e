"""Automatic mask generation with Triton, by the steps of `cpcsam.automatic`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_filtering import filter_masks, merge_crops, merge_tiles
from cpcsam.automatic.tiling import TILE_OVERLAP, PointGrid, build_point_grids
from cpcsam.contract import PROMPT_BUCKETS, MaskSelection, PointLabel
from cpcsam.grpc_errors import LimitError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedder import Embedder, TiledImage
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.limits import Limits
from serving.gateway.scheduling.concurrency import gather_limited
from serving.gateway.segmentation.by_class import tiles_within
from serving.gateway.segmentation.by_prompts import CONCURRENT_CHUNKS

__all__ = ["EverythingSegmenter"]

MAX_MERGED_PIXELS: Final = 2**30
"""Memory for masks of tiles while they are merged, a byte a pixel of their boxes."""
BATCH: Final = PROMPT_BUCKETS[-1]


class EverythingSegmenter:
    """Generates masks for everything in images, for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def segment(
        self,
        image: RequestImage,
        request: pb.SegmentRequest,
        config: MaskGeneratorConfig,
        context: RequestContext,
    ) -> tuple[list[InstanceMask], bool]:
        """Generate the masks of one image, grid by grid.

        Args:
            image: of the request.
            request: with tiles or without.
            config: grids and thresholds.
            context: of the request.

        Returns:
            Masks in the image, best first; and whether every embedding came from the cache.

        Raises:
            LimitError: too many tiles or clicks, or masks too large to be merged.
            NotFoundError: the image was given by image_id, and some part is not cached any more.
        """
        side, size = request.tile_size, image.size
        overlap = request.tile_overlap if request.HasField("tile_overlap") else TILE_OVERLAP
        _check_work(size, config, side, overlap, self._embedder.limits)
        grids = build_point_grids(size, config, side, overlap)
        async with self._embedder.tiled(image, context) as tiled:
            masks = await gather_limited(
                [partial(self._masks, grid, tiled, size, config, context) for grid in grids]
            )
        if side:
            _check_room(masks)
            merged = await asyncio.to_thread(merge_tiles, grids, masks, config)
        else:
            merged = await asyncio.to_thread(merge_crops, masks, size, config)
        return merged, tiled.cached

    async def _masks(
        self,
        grid: PointGrid,
        tiled: TiledImage,
        size: tuple[int, int],
        config: MaskGeneratorConfig,
        context: RequestContext,
    ) -> list[InstanceMask]:
        """Decode all clicks of a grid; masks below the thresholds are freed batch by batch."""
        encoded = await tiled.embed(grid.region)
        height, width = (int(side) for side in encoded.input_size[0])
        image_size = (await context.model()).image_size
        labels = np.full((len(grid.points), 1), PointLabel.FOREGROUND, np.int32)
        chunks = chunk_tensors(grid.points[:, None], labels)

        async def decode(start: int) -> list[InstanceMask]:
            outputs = await self._embedder.triton.decode_logits(
                encoded, chunks[start // BATCH], MaskSelection.ALL, context
            )
            points = grid.points[start : start + BATCH]
            return await asyncio.to_thread(
                filter_masks, grid, points, outputs, (height, width), image_size, size, config
            )

        batches = await gather_limited(
            [partial(decode, start) for start in range(0, len(grid.points), BATCH)],
            2 * CONCURRENT_CHUNKS,  # while some are filtered, others are decoded
        )
        return [mask for batch in batches for mask in batch]


def _check_work(
    size: tuple[int, int],
    config: MaskGeneratorConfig,
    side: int,
    overlap: float,
    limits: Limits,
) -> None:
    """Raise LimitError for too many tiles or clicks, before any is laid out."""
    if side:
        tiles = len(tiles_within(size, side, overlap, limits.max_tiles))
        clicks = tiles * config.points_per_side**2
    else:
        layers = range(config.crop_n_layers + 1)
        tiles = sum(4**layer for layer in layers)
        points = [
            config.points_per_side // config.crop_n_points_downscale_factor**i for i in layers
        ]
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


def _check_room(masks: Sequence[Sequence[InstanceMask]]) -> None:
    heights_widths = [mask.bbox.size for tile in masks for mask in tile]
    pixels = sum(height * width for height, width in heights_widths)
    if pixels > MAX_MERGED_PIXELS:
        raise LimitError.of(
            "everything",
            got=f"masks of {pixels} pixels in all",
            expected=f"at most {MAX_MERGED_PIXELS} in tiles",
            fix="raise min_iou or min_stability, or take smaller tiles",
        )
