"""Segmentation without annotators (DESIGN §2): every entity of every class, or everything.

An image is shown in tiles; similarity maps give clicks and boxes; the model, with CaPL if it has
it, turns them into masks; what the masks leave uncovered is clicked again; tiles are merged. Where
no class is known, a grid of clicks does. The model stands behind two functions on numpy arrays, so
torch and ONNX Runtime both fit; the gateway takes the same steps with Triton's answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.class_search import AutoSettings, BestMasks, ShownTile, search_tile
from cpcsam.automatic.mask_generator import (
    Candidate,
    EverythingSettings,
    View,
    best_of_crops,
    judge,
    merged_tiles,
    views_of,
)
from cpcsam.automatic.mask_merging import FoundMask, merge_masks
from cpcsam.automatic.prompt_proposals import GeneratedPrompts
from cpcsam.automatic.tiling import TILE_OVERLAP, Tile, tiles_of
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.backends.protocol import Backend, EncoderBackend
from cpcsam.contract import PROMPT_BUCKETS, PointLabel
from cpcsam.transforms import resize_coords, to_frame

__all__ = [
    "AutoSettings",
    "merge_found",
    "segment_everything",
    "segment_image",
    "shown_tiles",
]

MULTIMASK: Final = slice(1, None)
"""The masks that SAM offers for ambiguous prompts."""

Array = NDArray[np.float32]


def segment_image(
    image: NDArray[np.uint8],
    vocabulary: Vocabulary,
    backend: Backend,
    settings: AutoSettings | None = None,
) -> list[FoundMask]:
    """Find all entities of the vocabulary's classes in one image.

    Args:
        image: (H, W, 3) uint8, RGB, of any size.
        vocabulary: made with this model.
        backend: the model.
        settings: how to look; None takes the defaults.

    Returns:
        Masks in the original image, best first.
    """
    settings = settings or AutoSettings()
    size = image.shape[0], image.shape[1]
    found: list[FoundMask] = []
    tiles: list[Tile] = []
    for shown in shown_tiles(image, vocabulary.tile, settings.overlap, backend):
        tiles.append(shown.tile)
        found += _search(shown, vocabulary, size, backend, settings)
    return merge_found(found, tiles, settings)


def merge_found(
    found: list[FoundMask], tiles: list[Tile], settings: AutoSettings
) -> list[FoundMask]:
    """Put together what the tiles of an image showed, best first."""
    merged = merge_masks(found, tiles)
    return [one for one in merged if int(one.mask.sum()) >= settings.min_area]


def shown_tiles(
    image: NDArray[np.uint8],
    tile: int,
    overlap: float,
    backend: EncoderBackend,
    max_tiles: int | None = None,
) -> Iterator[ShownTile]:
    """Embed an image tile by tile.

    Args:
        image: (H, W, 3) uint8.
        tile: side of the tiles in pixels of the image; 0 shows the whole image at once.
        overlap: of neighbours, as a part of the side.
        backend: embeds the tiles.
        max_tiles: show at most so many, evenly spread; None shows all.
    """
    for part in tiles_of((image.shape[0], image.shape[1]), tile, overlap, max_tiles):
        frame, input_size = to_frame(part.cut(image), backend.image_size)
        embeddings = backend.encode(frame[None], np.array([input_size], np.int32))
        yield ShownTile(part, input_size, embeddings[0])


def segment_everything(
    image: NDArray[np.uint8],
    backend: Backend,
    settings: EverythingSettings | None = None,
    tile: int = 0,
    overlap: float = TILE_OVERLAP,
) -> list[FoundMask]:
    """Find everything in one image, as SAM's automatic mask generator does.

    Args:
        image: (H, W, 3) uint8, RGB, of any size.
        backend: the model.
        settings: how to look; None takes the defaults.
        tile: side of tiles, each with a grid of clicks, which then are merged; 0 looks at the
            whole image and at the crops of the settings.
        overlap: of neighbouring tiles, as a part of their side.

    Returns:
        Masks in the original image, best first.
    """
    settings = settings or EverythingSettings()
    size = image.shape[0], image.shape[1]
    views = views_of(size, settings, tile, overlap)
    seen = [_look(view, image, backend, settings) for view in views]
    if tile:
        return merged_tiles(views, seen, size, settings)
    return [one.unpacked(size) for one in best_of_crops(seen, size, settings)]


def _look(
    view: View, image: NDArray[np.uint8], backend: Backend, settings: EverythingSettings
) -> list[Candidate]:
    frame, input_size = to_frame(view.part.cut(image), backend.image_size)
    embeddings = backend.encode(frame[None], np.array([input_size], np.int32))
    found: list[Candidate] = []
    for start in range(0, len(view.clicks), PROMPT_BUCKETS[-1]):
        clicks = view.clicks[start : start + PROMPT_BUCKETS[-1]]
        coords = resize_coords(clicks, view.part.size, backend.image_size)
        labels = np.full((1, len(clicks), 1), PointLabel.FOREGROUND, np.int32)
        masks, predicted = backend.decode(embeddings, coords[None, :, None], labels)
        answer = masks[0, :, MULTIMASK], predicted[0, :, MULTIMASK]
        found += judge(view, clicks, answer, input_size, backend.image_size, settings)
    return found


def _search(
    shown: ShownTile,
    vocabulary: Vocabulary,
    size: tuple[int, int],
    backend: Backend,
    settings: AutoSettings,
) -> list[FoundMask]:
    """Drive the search of one tile with the model's answers."""
    maps = vocabulary.similarity_maps(shown.image_embeddings)
    search = search_tile(shown, maps, size, settings)
    try:
        prompts = next(search)
        while True:
            prompts = search.send(_decode(shown.image_embeddings, prompts, backend))
    except StopIteration as end:
        found: list[FoundMask] = end.value
        return found


def _decode(embeddings: Array, prompts: GeneratedPrompts, backend: Backend) -> BestMasks:
    size = PROMPT_BUCKETS[-1]
    answers = [
        backend.decode(
            embeddings[None],
            prompts.point_coords[None, start : start + size],
            prompts.point_labels[None, start : start + size],
        )
        for start in range(0, len(prompts), size)
    ]
    logits = np.concatenate([masks[0] for masks, _ in answers])
    predicted = np.concatenate([ious[0] for _, ious in answers])
    best = predicted[:, MULTIMASK].argmax(1) + MULTIMASK.start
    chosen = np.arange(len(prompts)), best
    return BestMasks(logits[chosen], predicted[chosen])
