"""Search for a vocabulary's classes in one tile: prompt, decode, prompt what is uncovered.

The search calls no model. It is a generator (coroutine) that yields prompts and is sent their
masks, so that its caller decides how to decode: synchronously, or concurrently with other tiles.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.automatic.mask_merging import mask_nms
from cpcsam.automatic.prompt_proposals import GeneratedPrompts, prompts_from_similarity
from cpcsam.automatic.tiling import is_cut
from cpcsam.contract import LOW_RES_FACTOR, MASK_THRESHOLD, PATCH_SIZE
from cpcsam.geometry import Box

__all__ = ["BestMasks", "EncodedTile", "Search", "image_cells", "search_tile"]

Array = NDArray[np.float32]


class EncodedTile(NamedTuple):
    """An encoded tile of an image.

    Attributes:
        tile: box of the image.
        input_size: (H, W) of the tile in the encoder's frame.
        image_embeddings: (256, G, G).
    """

    tile: Box
    input_size: tuple[int, int]
    image_embeddings: Array


@dataclass(frozen=True)
class BestMasks:
    """The mask with the highest predicted IoU among those for ambiguous prompts.

    Attributes:
        low_res_masks: (P, 4G, 4G) logits.
        iou_predictions: (P,).
    """

    low_res_masks: Array
    iou_predictions: Array


Search: TypeAlias = Generator[GeneratedPrompts, BestMasks, list[InstanceMask]]


def image_cells(input_size: tuple[int, int], grid: int) -> NDArray[np.bool_]:
    """Return the cells whose centres show the image rather than padding, (G, G) bool."""
    centres = (np.arange(grid) + 0.5) * PATCH_SIZE
    rows, columns = (centres < side for side in input_size)
    cells: NDArray[np.bool_] = rows[:, None] & columns
    return cells


def search_tile(
    encoded: EncodedTile, maps: Array, size: tuple[int, int], config: ClassSearchConfig
) -> Search:
    """Find the entities in a tile; mask NMS removes duplicates.

    Args:
        encoded: the tile.
        maps: (C, G, G), the probability of each class; 0 excludes a place.
        size: (H, W) of the whole image.
        config: thresholds and rounds.

    Yields:
        Prompts in the encoder's frame; the caller sends their masks.

    Returns:
        Masks in the whole image.
    """
    # The encoder embeds padding too, and classes may seem likely there.
    maps = maps * image_cells(encoded.input_size, maps.shape[-1])
    uncovered = maps
    side = LOW_RES_FACTOR * maps.shape[-1]
    masks = np.zeros((0, side, side), bool)
    logits = np.zeros((0, side, side), np.float32)
    scores, classes = np.zeros(0, np.float32), np.zeros(0, np.int64)
    clicks = np.zeros((0, 2), np.float32)
    for round_index in range(config.rounds + 1):
        prompts = prompts_from_similarity(
            uncovered,
            config.threshold,
            boxes=config.boxes and round_index == 0,
            dense=round_index > 0,
        )
        if not len(prompts):
            break
        decoded = yield prompts
        new, predicted = decoded.low_res_masks > MASK_THRESHOLD, decoded.iou_predictions
        under = _similarity_under(new, maps[prompts.class_indices])
        good = (under >= config.min_similarity) & (predicted >= config.min_iou)
        logits = np.concatenate([logits, decoded.low_res_masks[good]])
        masks = np.concatenate([masks, new[good]])
        scores = np.concatenate([scores, (under * predicted)[good]])
        classes = np.concatenate([classes, prompts.class_indices[good]])
        clicks = np.concatenate([clicks, _middles(prompts)[good]])
        # Over all rounds: a later mask may be the better one of an entity found before.
        kept = mask_nms(masks, scores, classes)
        logits, masks = logits[kept], masks[kept]
        scores, classes, clicks = scores[kept], classes[kept], clicks[kept]
        # Cumulative: a cell stays covered even if NMS drops the covering mask in a later round.
        uncovered = uncovered * _uncovered(masks, classes, uncovered.shape)
    return [
        instance
        for instance in (
            _instance(encoded, size, *parts, config.min_area)
            for parts in zip(logits, scores, classes, clicks, strict=True)
        )
        if instance is not None
    ]


def _cells(masks: NDArray[np.bool_]) -> Array:
    """Return the coverage of each cell by masks, (n, 4G, 4G) bool to (n, G, G) in [0, 1]."""
    grid = masks.shape[-1] // LOW_RES_FACTOR
    # (n, G, 4, G, 4): axes 2 and 4 run within a cell
    cells = masks.reshape(len(masks), grid, LOW_RES_FACTOR, grid, LOW_RES_FACTOR)
    return np.asarray(cells.mean((2, 4)), np.float32)


def _similarity_under(masks: NDArray[np.bool_], maps: Array) -> Array:
    """Measure how well a class's map explains each mask: 1 if it is as likely as the mask covers.

    A cell's probability is about the part of it that the class covers, so that of a small entity
    stays low; measured by the mask's own coverage, small and large ones are judged alike.

    Args:
        masks: (n, 4G, 4G) bool.
        maps: (n, G, G), of each mask's class.
    """
    cells = _cells(masks)
    explained = (cells * maps).sum((1, 2)) / np.maximum((cells * cells).sum((1, 2)), 1e-6)
    return np.asarray(np.minimum(explained, 1), np.float32)


def _uncovered(
    masks: NDArray[np.bool_], classes: NDArray[np.int64], shape: tuple[int, ...]
) -> Array:
    """Return (C, G, G): 1 for cells of which a class's masks cover less than half, else 0."""
    covered = np.zeros((shape[0], *masks.shape[1:]), bool)
    for index, mask in zip(classes, masks, strict=True):
        covered[index] |= mask
    return np.asarray(_cells(covered) < 0.5, np.float32)


def _middles(prompts: GeneratedPrompts) -> Array:
    """Return (P, 2): the click, or the middle of the box."""
    filled = (prompts.point_labels >= 0)[..., None]
    return np.asarray((prompts.point_coords * filled).sum(1) / filled.sum(1), np.float32)


def _instance(
    encoded: EncodedTile,
    size: tuple[int, int],
    logits: Array,
    score: np.float32,
    class_index: np.int64,
    click: Array,
    min_area: int,
) -> InstanceMask | None:
    """Return a tile's mask in the original image; None if less than min_area remains."""
    tile, input_size = encoded.tile, encoded.input_size
    image_size = encoded.image_embeddings.shape[-1] * PATCH_SIZE
    pasted = paste_mask(logits, input_size, tile.size, image_size)
    if pasted.area < max(min_area, 1):
        return None
    bbox = pasted.bbox.translate(tile.top, tile.left)
    x = tile.left + float(click[0]) * tile.size[1] / input_size[1]
    y = tile.top + float(click[1]) * tile.size[0] / input_size[0]
    return InstanceMask.from_mask(
        pasted.mask,
        bbox,
        score=float(score),
        tile=tile,
        is_cut=is_cut(bbox, tile, size),
        stability=pasted.stability,
        class_index=int(class_index),
        point=(x, y),
    )
