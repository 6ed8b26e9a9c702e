"""Segmentation of named classes with Triton, by the steps of `cpcsam.automatic`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from cpcsam.automatic.class_search import BestMasks, Search, search_tile
from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.predictor import merge_instances
from cpcsam.automatic.prompt_proposals import GeneratedPrompts
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.contract import PROMPT_BUCKETS, MaskSelection
from cpcsam.geometry import Box
from serving.gateway.context import RequestContext
from serving.gateway.inference.call_kinds import SEARCH
from serving.gateway.inference.embedder import Embedder, shown_tile
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.inference.triton_responses import Encoded
from serving.gateway.phases import POSTPROCESS
from serving.gateway.scheduling.call_times import CallKind
from serving.gateway.scheduling.concurrency import gather_limited
from serving.gateway.segmentation.tiles import tiles_within

__all__ = ["ClassSegmenter"]


class ClassSegmenter:
    """Segments the entities of named classes for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def segment(
        self,
        image: RequestImage,
        vocabulary: Vocabulary,
        names: Sequence[str],
        config: ClassSearchConfig,
        context: RequestContext,
    ) -> tuple[list[InstanceMask], bool]:
        """Segment all entities of the classes, tile by tile.

        Args:
            image: of the request.
            vocabulary: of the tenant.
            names: of the vocabulary's classes to segment.
            config: thresholds and rounds.
            context: of the request.

        Returns:
            Masks in the original image, best first; and whether every embedding came from the
            cache.

        Raises:
            LimitError: too many tiles.
            NotFoundError: the image was given by image_id, and some tile is not cached any more.
        """
        chosen = [name in names for name in vocabulary.names]
        wanted = np.array(chosen, np.float32)[:, None, None]
        limits, search_in = self._embedder.limits, self._embedder.executors.search
        tiles = tiles_within(image.size, vocabulary.tile, config.overlap, limits.max_tiles)
        # Of a round, the number of prompts is known only after the one before.
        kind = CallKind(SEARCH, PROMPT_BUCKETS[-1])
        rounds = {kind: len(tiles) * (config.rounds + 1)}
        async with self._embedder.tiled(image, context) as tiled:
            await tiled.claim(tiles, rounds)

            async def search(tile: Box) -> list[InstanceMask]:
                encoded = await tiled.embed(tile)
                shown = shown_tile(tile, encoded)
                with context.phases.measure(POSTPROCESS):
                    maps = await search_in.run(
                        context.permit.client, vocabulary.similarity_maps, shown.image_embeddings
                    )
                steps = search_tile(shown, maps * wanted, image.size, config)
                return await self._drive(steps, encoded, context)

            parts = await gather_limited([partial(search, tile) for tile in tiles])
        self._embedder.admission.give_up(context.permit, kind)
        masks = [mask for part in parts for mask in part]
        with context.phases.measure(POSTPROCESS):
            merged = await search_in.run(
                context.permit.client, merge_instances, masks, tiles, config
            )
        return merged, tiled.cached

    async def _drive(
        self, search: Search, encoded: Encoded, context: RequestContext
    ) -> list[InstanceMask]:
        """Decode the prompts that a search yields until it returns."""
        masks: BestMasks | None = None
        while True:
            with context.phases.measure(POSTPROCESS):
                step = await self._embedder.executors.search.run(
                    context.permit.client, _advance, search, masks
                )
            if isinstance(step, list):
                return step
            masks = await self._decode(encoded, step, context)

    async def _decode(
        self, encoded: Encoded, prompts: GeneratedPrompts, context: RequestContext
    ) -> BestMasks:
        # The prompts lie in the encoder's frame, so that frame is the "original" image here.
        encoded = replace(encoded, original_size=encoded.input_size)
        decode = self._embedder.triton.decode_logits
        outputs = await gather_limited(
            [
                partial(decode, encoded, chunk, MaskSelection.BEST, context)
                for chunk in chunk_tensors(prompts.point_coords, prompts.point_labels)
            ]
        )
        return BestMasks(
            np.concatenate([logits[:, 0] for logits, _ in outputs]),
            np.concatenate([scores[:, 0] for _, scores in outputs]),
        )


def _advance(search: Search, masks: BestMasks | None) -> GeneratedPrompts | list[InstanceMask]:
    """Return the prompts to decode next, or the instances when the search is done."""
    try:
        return next(search) if masks is None else search.send(masks)
    except StopIteration as end:
        instances: list[InstanceMask] = end.value
        return instances
