"""The entities of a vocabulary's classes in one tile: prompt, decode, prompt what is uncovered.

The search calls no model. It is a generator that asks for masks by yielding prompts and is sent
the answer, so that whoever drives it decides how: at once, or while others are answered too.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.mask_cropping import place_mask
from cpcsam.automatic.mask_merging import FoundMask, suppress
from cpcsam.automatic.prompt_proposals import GeneratedPrompts, prompts_from_similarity
from cpcsam.automatic.tiling import Tile, is_cut
from cpcsam.checks import require_range
from cpcsam.contract import LOW_RES_FACTOR, MASK_THRESHOLD, PATCH_SIZE

__all__ = ["AutoSettings", "BestMasks", "Search", "ShownTile", "search_tile", "shown_cells"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class AutoSettings:
    """How entities are looked for.

    Attributes:
        overlap: of neighbouring tiles, as a part of their side.
        threshold: probability from which a place of the map is prompted.
        min_similarity: least mean probability of the class under a mask.
        min_iou: least predicted IoU of a mask.
        min_area: least pixels of a mask in the original image.
        boxes: prompt components with boxes beside the clicks.
        rounds: how often what is still uncovered is clicked, 0 to click peaks alone.
    """

    overlap: float = 0.5
    threshold: float = 0.4
    min_similarity: float = 0.4
    min_iou: float = 0.4
    min_area: int = 20
    boxes: bool = False
    rounds: int = 2

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        for name in ("threshold", "min_similarity", "min_iou"):
            require_range(name, getattr(self, name), 0, 1)
        require_range("overlap", self.overlap, 0, 1, below=True)


class ShownTile(NamedTuple):
    """A tile as the model saw it.

    Attributes:
        tile: its place in the image.
        input_size: (H, W) of the tile in the encoder's frame.
        image_embeddings: (256, G, G).
    """

    tile: Tile
    input_size: tuple[int, int]
    image_embeddings: Array


@dataclass(frozen=True)
class BestMasks:
    """Of the masks for ambiguous prompts, the one with the highest predicted IoU.

    Attributes:
        low_res_masks: (P, 4G, 4G) logits.
        iou_predictions: (P,).
    """

    low_res_masks: Array
    iou_predictions: Array


Search: TypeAlias = Generator[GeneratedPrompts, BestMasks, list[FoundMask]]


def shown_cells(input_size: tuple[int, int], grid: int) -> NDArray[np.bool_]:
    """Which cells' centres show the image rather than padding, (G, G) bool."""
    centres = (np.arange(grid) + 0.5) * PATCH_SIZE
    rows, columns = (centres < side for side in input_size)
    shown: NDArray[np.bool_] = rows[:, None] & columns
    return shown


def search_tile(
    shown: ShownTile, maps: Array, size: tuple[int, int], settings: AutoSettings
) -> Search:
    """Find the entities that a tile shows, duplicates suppressed.

    Args:
        shown: the tile.
        maps: (C, G, G), the probability of each class; 0 where nothing is to be found.
        size: (H, W) of the whole image.
        settings: how to look.

    Yields:
        Prompts in the encoder's frame, to be answered by their masks.

    Returns:
        Masks in the whole image.
    """
    maps = maps * shown_cells(shown.input_size, maps.shape[-1])
    left = maps
    side = LOW_RES_FACTOR * maps.shape[-1]
    masks = np.zeros((0, side, side), bool)
    logits = np.zeros((0, side, side), np.float32)
    scores, classes = np.zeros(0, np.float32), np.zeros(0, np.int64)
    clicks = np.zeros((0, 2), np.float32)
    for turn in range(settings.rounds + 1):
        prompts = prompts_from_similarity(
            left, settings.threshold, boxes=settings.boxes and turn == 0, dense=turn > 0
        )
        if not len(prompts):
            break
        answer = yield prompts
        new, predicted = answer.low_res_masks > MASK_THRESHOLD, answer.iou_predictions
        under = _similarity_under(new, maps[prompts.class_indices])
        good = (under >= settings.min_similarity) & (predicted >= settings.min_iou)
        logits = np.concatenate([logits, answer.low_res_masks[good]])
        masks = np.concatenate([masks, new[good]])
        scores = np.concatenate([scores, (under * predicted)[good]])
        classes = np.concatenate([classes, prompts.class_indices[good]])
        clicks = np.concatenate([clicks, _middles(prompts)[good]])
        kept = suppress(masks, scores, classes)
        logits, masks = logits[kept], masks[kept]
        scores, classes, clicks = scores[kept], classes[kept], clicks[kept]
        left = left * _uncovered(masks, classes, left.shape)
    return [
        one
        for one in (
            _in_image(shown, size, *parts, settings.min_area)
            for parts in zip(logits, scores, classes, clicks, strict=True)
        )
        if one is not None
    ]


def _cells(masks: NDArray[np.bool_]) -> Array:
    """How much of each cell masks cover, (n, 4G, 4G) bool to (n, G, G)."""
    grid = masks.shape[-1] // LOW_RES_FACTOR
    cells = masks.reshape(len(masks), grid, LOW_RES_FACTOR, grid, LOW_RES_FACTOR)
    return np.asarray(cells.mean((2, 4)), np.float32)


def _similarity_under(masks: NDArray[np.bool_], maps: Array) -> Array:
    """How well a class's map explains each mask, 1 where it is as likely as the mask covers.

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
    """(C, G, G): 1 for cells of which a class's masks cover less than half, else 0."""
    covered = np.zeros((shape[0], *masks.shape[1:]), bool)
    for index, mask in zip(classes, masks, strict=True):
        covered[index] |= mask
    return np.asarray(_cells(covered) < 0.5, np.float32)


def _middles(prompts: GeneratedPrompts) -> Array:
    """(P, 2): the click, or the middle of the box."""
    filled = (prompts.point_labels >= 0)[..., None]
    return np.asarray((prompts.point_coords * filled).sum(1) / filled.sum(1), np.float32)


def _in_image(
    shown: ShownTile,
    size: tuple[int, int],
    logits: Array,
    score: np.float32,
    class_index: np.int64,
    click: Array,
    min_area: int,
) -> FoundMask | None:
    """A tile's mask in the original image; None where less than min_area remains."""
    tile, input_size = shown.tile, shown.input_size
    image_size = shown.image_embeddings.shape[-1] * PATCH_SIZE
    placed = place_mask(logits, input_size, tile.size, image_size)
    if int(placed.mask.sum()) < max(min_area, 1):
        return None
    area = placed.area.within(tile)
    x = tile.left + float(click[0]) * tile.size[1] / input_size[1]
    y = tile.top + float(click[1]) * tile.size[0] / input_size[0]
    return FoundMask(
        class_index=int(class_index),
        score=float(score),
        click=(x, y),
        area=area,
        mask=placed.mask,
        tile=tile,
        cut=is_cut(area, tile, size),
        stability=placed.stability,
    )
