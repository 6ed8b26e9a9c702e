"""Automatic mask generation with Triton, by the steps of `cpcsam.automatic`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_filtering import merge_crops, merge_tiles
from cpcsam.automatic.tiling import PointGrid, build_point_grids
from cpcsam.contract import PROMPT_BUCKETS, MaskSelection, PointLabel
from cpcsam.grpc_errors import LimitError
from serving.gateway.context import RequestContext
from serving.gateway.inference.call_kinds import EVERYTHING, decodes
from serving.gateway.inference.embedder import Embedder, TiledImage
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.inference.triton_responses import ChunkMasks
from serving.gateway.phases import POSTPROCESS
from serving.gateway.scheduling.concurrency import gather_limited
from serving.gateway.segmentation.by_prompts import CONCURRENT_CHUNKS, instance_of
from serving.gateway.segmentation.tiles import Tiles, check_work

__all__ = ["EverythingSegmenter", "NoRoomError"]

MAX_MERGED_PIXELS: Final = 2**30
"""Memory for masks of tiles while they are merged, a byte a pixel of their boxes."""
BATCH: Final = PROMPT_BUCKETS[-1]


class NoRoomError(LimitError):
    """The masks of tiles are too large to be merged, which only they themselves tell."""


class EverythingSegmenter:
    """Generates masks for everything in images, for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def segment(
        self,
        image: RequestImage,
        tiles: Tiles,
        config: MaskGeneratorConfig,
        context: RequestContext,
    ) -> tuple[list[InstanceMask], bool]:
        """Generate the masks of one image, grid by grid.

        Args:
            image: of the request.
            tiles: each with a grid of clicks; without a side, the whole image and its crops.
            config: grids and thresholds.
            context: of the request.

        Returns:
            Masks in the image, best first; and whether every embedding came from the cache.

        Raises:
            LimitError: too many tiles or clicks.
            NoRoomError: masks of tiles that are too large to be merged.
            NotFoundError: the image was given by image_id, and some part is not cached any more.
        """
        side, size = tiles.side, image.size
        check_work(size, config, side, tiles.overlap, self._embedder.limits)
        grids = build_point_grids(size, config, side, tiles.overlap)
        calls = sum((decodes(EVERYTHING, len(grid.points)) for grid in grids), Counter())
        async with self._embedder.tiled(image, context) as tiled:
            await tiled.claim([grid.region for grid in grids], calls)
            masks = await gather_limited(
                [partial(self._masks, grid, tiled, size, config, context) for grid in grids]
            )
        merge_in, client = self._embedder.executors.search, context.permit.client
        with context.phases.measure(POSTPROCESS):
            if side:
                _check_room(masks)
                merged = await merge_in.run(client, merge_tiles, grids, masks, config)
            else:
                merged = await merge_in.run(client, merge_crops, masks, size, config)
        return merged, tiled.cached

    async def _masks(
        self,
        grid: PointGrid,
        tiled: TiledImage,
        size: tuple[int, int],
        config: MaskGeneratorConfig,
        context: RequestContext,
    ) -> list[InstanceMask]:
        """Decode all clicks of a grid; only masks that pass the thresholds leave Triton."""
        encoded = await tiled.embed(grid.region)
        labels = np.full((len(grid.points), 1), PointLabel.FOREGROUND, np.int32)
        chunks = chunk_tensors(grid.points[:, None], labels)
        thresholds = (
            config.pred_iou_thresh,
            config.stability_score_thresh,
            config.stability_score_offset,
        )
        decode = partial(
            self._embedder.triton.decode,
            encoded,
            mask_selection=MaskSelection.ALL,
            context=context,
            thresholds=thresholds,
        )
        decoded = await gather_limited(
            [partial(decode, chunk) for chunk in chunks], CONCURRENT_CHUNKS
        )
        least = max(config.min_mask_region_area, 1)
        with context.phases.measure(POSTPROCESS):
            return [
                mask
                for number, masks in enumerate(decoded)
                for mask in _kept(masks, grid, number * BATCH, size, least)
            ]


def _kept(
    masks: ChunkMasks, grid: PointGrid, first: int, size: tuple[int, int], min_area: int
) -> list[InstanceMask]:
    """Return the masks of a chunk that are not empty, in order.

    Args:
        masks: of the grid's points from the index `first`.
        grid: that was clicked.
        first: index of the chunk's first point.
        size: (H, W) of the whole image.
        min_area: least pixels of a mask.
    """
    top, left = grid.region.top, grid.region.left
    kept = []
    for row, column in np.argwhere(masks.areas >= min_area):
        x, y = (float(value) for value in grid.points[first + row])
        point = (left + x, top + y)
        kept.append(instance_of(masks, (row, column), grid.region, size, point))
    return kept


def _check_room(masks: Sequence[Sequence[InstanceMask]]) -> None:
    heights_widths = [mask.bbox.size for tile in masks for mask in tile]
    pixels = sum(height * width for height, width in heights_widths)
    if pixels > MAX_MERGED_PIXELS:
        raise NoRoomError.of(
            "everything",
            got=f"masks of {pixels} pixels in all",
            expected=f"at most {MAX_MERGED_PIXELS} in tiles",
            fix="raise min_iou or min_stability, or take smaller tiles",
        )
