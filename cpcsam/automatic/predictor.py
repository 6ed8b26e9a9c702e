"""Segmentation of a vocabulary's classes without annotators, on any backend.

The image is encoded tile by tile; similarity maps propose clicks and boxes; the model, with CaPL
if it has it, turns them into masks; what the masks leave uncovered is clicked again; the tiles'
masks are merged. The gateway takes the same steps with Triton's outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.class_search import BestMasks, EncodedTile, search_tile
from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_merging import merge_masks
from cpcsam.automatic.prompt_proposals import GeneratedPrompts
from cpcsam.automatic.tiling import tile_boxes
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.backends.protocol import Backend, EncoderBackend
from cpcsam.contract import MULTIMASK, PROMPT_BUCKETS
from cpcsam.geometry import Box
from cpcsam.transforms import to_frame

__all__ = ["encode_tiles", "merge_instances", "segment_image"]

Array = NDArray[np.float32]


def segment_image(
    image: NDArray[np.uint8],
    vocabulary: Vocabulary,
    backend: Backend,
    config: ClassSearchConfig | None = None,
) -> list[InstanceMask]:
    """Find all entities of the vocabulary's classes in one image.

    Args:
        image: (H, W, 3) uint8, RGB, of any size.
        vocabulary: made with this model.
        backend: the model.
        config: thresholds and rounds; None takes the defaults.

    Returns:
        Masks in the original image, best first.
    """
    config = config or ClassSearchConfig()
    size = image.shape[0], image.shape[1]
    masks: list[InstanceMask] = []
    tiles: list[Box] = []
    parts = tile_boxes(size, vocabulary.tile, config.overlap)
    for encoded in encode_tiles(image, parts, backend):
        tiles.append(encoded.tile)
        masks += _search(encoded, vocabulary, size, backend, config)
    return merge_instances(masks, tiles, config)


def merge_instances(
    masks: list[InstanceMask], tiles: list[Box], config: ClassSearchConfig
) -> list[InstanceMask]:
    """Merge the masks of an image's tiles, best first."""
    merged = merge_masks(masks, tiles)
    return [mask for mask in merged if mask.area >= config.min_area]


def encode_tiles(
    image: NDArray[np.uint8], tiles: Iterable[Box], backend: EncoderBackend
) -> Iterator[EncodedTile]:
    """Encode an image tile by tile.

    Args:
        image: (H, W, 3) uint8.
        tiles: of the image.
        backend: encodes the tiles.
    """
    for part in tiles:
        frame, input_size = to_frame(part.crop(image), backend.image_size)
        embeddings = backend.encode(frame[None], np.array([input_size], np.int32))
        yield EncodedTile(part, input_size, embeddings[0])


def _search(
    encoded: EncodedTile,
    vocabulary: Vocabulary,
    size: tuple[int, int],
    backend: Backend,
    config: ClassSearchConfig,
) -> list[InstanceMask]:
    """Drive the search of one tile with the backend's masks."""
    maps = vocabulary.similarity_maps(encoded.image_embeddings)
    search = search_tile(encoded, maps, size, config)
    try:
        prompts = next(search)
        while True:
            prompts = search.send(_decode(encoded.image_embeddings, prompts, backend))
    except StopIteration as end:
        masks: list[InstanceMask] = end.value
        return masks


def _decode(embeddings: Array, prompts: GeneratedPrompts, backend: Backend) -> BestMasks:
    size = PROMPT_BUCKETS[-1]
    outputs = [
        backend.decode(
            embeddings[None],
            prompts.point_coords[None, start : start + size],
            prompts.point_labels[None, start : start + size],
        )
        for start in range(0, len(prompts), size)
    ]
    logits = np.concatenate([masks[0] for masks, _ in outputs])
    predicted = np.concatenate([ious[0] for _, ious in outputs])
    # Proposed clicks are ambiguous, and mask 0 is trained for unambiguous prompts.
    best = predicted[:, MULTIMASK].argmax(1) + MULTIMASK.start
    chosen = np.arange(len(prompts)), best
    return BestMasks(logits[chosen], predicted[chosen])
