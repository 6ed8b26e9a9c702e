"""Every entity of named classes, by the steps of `cpcsam.automatic` with Triton's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import numpy as np

from cpcsam.automatic.class_search import AutoSettings, BestMasks, Search, ShownTile, search_tile
from cpcsam.automatic.mask_merging import FoundMask
from cpcsam.automatic.predictor import merge_found
from cpcsam.automatic.prompt_proposals import GeneratedPrompts
from cpcsam.automatic.tiling import Tile, tiles_of
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.contract import MaskSelection
from cpcsam.grpc_errors import LimitError
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedder import Embedder
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.inference.triton_responses import Encoded
from serving.gateway.scheduling.gather import gather_limited

__all__ = ["ClassSearch", "tiles_within"]


class ClassSearch:
    """Finds the entities of classes for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def find(
        self,
        image: RequestImage,
        vocabulary: Vocabulary,
        names: Sequence[str],
        settings: AutoSettings,
        context: RequestContext,
    ) -> tuple[list[FoundMask], bool]:
        """Find entities, tile by tile.

        Args:
            image: to look in.
            vocabulary: of the tenant.
            names: classes of it to look for.
            settings: how to look.
            context: of the request.

        Returns:
            Masks in the original image, best first, and whether nothing had to be encoded.

        Raises:
            LimitError: too many tiles.
            NotFoundError: the image was only named, and some tile is not known any more.
        """
        chosen = [name in names for name in vocabulary.names]
        wanted = np.array(chosen, np.float32)[:, None, None]
        limits = self._embedder.limits
        tiles = tiles_within(image.size, vocabulary.tile, settings.overlap, limits.max_tiles)
        async with self._embedder.tiled(image, context) as tiled:

            async def search(tile: Tile) -> list[FoundMask]:
                shown = await tiled.show(tile)
                maps = await asyncio.to_thread(vocabulary.similarity_maps, shown.image_embeddings)
                steps = search_tile(shown, maps * wanted, image.size, settings)
                return await self._drive(steps, shown, context)

            parts = await gather_limited([partial(search, tile) for tile in tiles])
        found = [one for part in parts for one in part]
        return await asyncio.to_thread(merge_found, found, tiles, settings), tiled.cached

    async def _drive(
        self, search: Search, shown: ShownTile, context: RequestContext
    ) -> list[FoundMask]:
        """Answer what a search asks until it has found all."""
        answer: BestMasks | None = None
        while True:
            step = await asyncio.to_thread(_advance, search, answer)
            if isinstance(step, list):
                return step
            answer = await self._decode(shown, step, context)

    async def _decode(
        self, shown: ShownTile, prompts: GeneratedPrompts, context: RequestContext
    ) -> BestMasks:
        # The prompts lie in the encoder's frame, so that frame is the "original" image here.
        frame = np.array([shown.input_size], np.int32)
        encoded = Encoded(shown.image_embeddings[None], frame, frame)
        decode = self._embedder.triton.decode_logits
        answers = await gather_limited(
            [
                partial(decode, encoded, chunk, MaskSelection.BEST, context)
                for chunk in chunk_tensors(prompts.point_coords, prompts.point_labels)
            ]
        )
        return BestMasks(
            np.concatenate([logits[:, 0] for logits, _ in answers]),
            np.concatenate([scores[:, 0] for _, scores in answers]),
        )


def tiles_within(size: tuple[int, int], side: int, overlap: float, max_tiles: int) -> list[Tile]:
    """The tiles in which an image is shown, if they are not too many.

    Raises:
        LimitError: they are.
    """
    step = max(1, side - int(side * overlap)) if side else max(size)
    count = (-(-size[0] // step)) * (-(-size[1] // step))
    if count > 4 * max_tiles or len(tiles := tiles_of(size, side, overlap)) > max_tiles:
        raise LimitError.of(
            "tiles",
            got=f"an image of {size[0]} x {size[1]} in tiles of {side} pixels",
            expected=f"at most {max_tiles} tiles",
            fix="send a part of the image, or make it smaller",
        )
    return tiles


def _advance(search: Search, answer: BestMasks | None) -> GeneratedPrompts | list[FoundMask]:
    """Prompts to be answered next, or what was found in the end."""
    try:
        return next(search) if answer is None else search.send(answer)
    except StopIteration as end:
        found: list[FoundMask] = end.value
        return found
