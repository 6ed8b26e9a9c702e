"""Every entity of every class of a vocabulary, prompted without annotators (DESIGN §2).

An image is shown in tiles; similarity maps give clicks and boxes; the model, with CaPL if it has
it, turns them into masks; what the masks leave uncovered is clicked again; tiles are merged. The
model stands behind two functions on numpy arrays, so torch, ONNX Runtime and Triton all fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import LOW_RES_FACTOR, MASK_THRESHOLD, PATCH_SIZE, PROMPT_BUCKETS
from cpcsam.merging import FoundMask, merge_masks, suppress
from cpcsam.proposals import GeneratedPrompts, prompts_from_similarity
from cpcsam.ranges import require_range
from cpcsam.tiles import Tile, tile_grid, touches_inner_side
from cpcsam.transforms import pad_image, resize_image, upscale_masks
from cpcsam.vocabulary import Vocabulary

__all__ = ["AutoSettings", "Encoder", "Model", "segment_image", "shown_cells", "shown_tiles"]

MULTIMASK: Final = slice(1, None)
"""The masks that SAM offers for ambiguous prompts."""

Array = NDArray[np.float32]


class Encoder(Protocol):
    """What tells what an image shows where, on numpy arrays."""

    image_size: int

    def encode(self, image: NDArray[np.uint8], input_size: NDArray[np.int32]) -> Array:
        """(B, 3, S, S) and (B, 2) to image_embeddings (B, 256, G, G), or maps of another size."""


class Model(Encoder, Protocol):
    """The three graphs of the contract, on numpy arrays."""

    def decode(
        self, image_embeddings: Array, point_coords: Array, point_labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """(1, 256, G, G), (1, P, N, 2) and (1, P, N) to low_res_masks and iou_predictions."""


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


def segment_image(
    image: NDArray[np.uint8],
    vocabulary: Vocabulary,
    model: Model,
    settings: AutoSettings | None = None,
) -> list[FoundMask]:
    """Find all entities of the vocabulary's classes in one image.

    Args:
        image: (H, W, 3) uint8, RGB, of any size.
        vocabulary: made with this model.
        model: the graphs.
        settings: how to look; None takes the defaults.

    Returns:
        Masks in the original image, best first.
    """
    settings = settings or AutoSettings()
    size = image.shape[0], image.shape[1]
    found: list[FoundMask] = []
    tiles: list[Tile] = []
    for tile, input_size, embeddings in shown_tiles(
        image, vocabulary.tile, settings.overlap, model
    ):
        maps = vocabulary.similarity_maps(embeddings)
        maps = maps * shown_cells(input_size, maps.shape[-1])
        tiles.append(tile)
        found += _segment_tile(tile, size, input_size, embeddings, maps, model, settings)
    merged = merge_masks(found, tiles)
    return [one for one in merged if int(one.mask.sum()) >= settings.min_area]


def shown_tiles(
    image: NDArray[np.uint8],
    tile: int,
    overlap: float,
    model: Encoder,
    max_tiles: int | None = None,
) -> Iterator[tuple[Tile, tuple[int, int], Array]]:
    """Embed an image tile by tile.

    Args:
        image: (H, W, 3) uint8.
        tile: side of the tiles in pixels of the image; 0 shows the whole image at once.
        overlap: of neighbours, as a part of the side.
        model: what embeds the tiles.
        max_tiles: show at most so many, evenly spread; None shows all.

    Yields:
        The tile, its input_size (H, W) in the encoder's frame and its embeddings (256, G, G).
    """
    size = image.shape[0], image.shape[1]
    side = tile or max(size)
    parts = tile_grid(size, side, min(int(side * overlap), side - 1))
    count = min(len(parts), max_tiles or len(parts))
    for part in (parts[index * len(parts) // count] for index in range(count)):
        resized = resize_image(part.cut(image), model.image_size)
        input_size = resized.shape[0], resized.shape[1]
        padded = pad_image(resized, model.image_size)[None]
        yield part, input_size, model.encode(padded, np.array([input_size], np.int32))[0]


def shown_cells(input_size: tuple[int, int], grid: int) -> NDArray[np.bool_]:
    """Which cells' centres show the image rather than padding, (G, G) bool."""
    centres = (np.arange(grid) + 0.5) * PATCH_SIZE
    rows, columns = (centres < side for side in input_size)
    shown: NDArray[np.bool_] = rows[:, None] & columns
    return shown


def _segment_tile(
    tile: Tile,
    size: tuple[int, int],
    input_size: tuple[int, int],
    embeddings: Array,
    maps: Array,
    model: Model,
    settings: AutoSettings,
) -> list[FoundMask]:
    """Prompt, decode, prompt what is uncovered, and suppress duplicates within one tile."""
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
        new_logits, predicted = _decode(embeddings, prompts, model)
        new = new_logits > MASK_THRESHOLD
        under = _similarity_under(new, maps[prompts.class_indices])
        good = (under >= settings.min_similarity) & (predicted >= settings.min_iou)
        logits = np.concatenate([logits, new_logits[good]])
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
            _in_image(tile, size, input_size, model.image_size, *parts, settings.min_area)
            for parts in zip(logits, scores, classes, clicks, strict=True)
        )
        if one is not None
    ]


def _decode(embeddings: Array, prompts: GeneratedPrompts, model: Model) -> tuple[Array, Array]:
    """The best of masks 1-3 of every prompt, (P, 4G, 4G) logits, and its predicted IoU (P,)."""
    size = PROMPT_BUCKETS[-1]
    answers = [
        model.decode(
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
    return logits[chosen], predicted[chosen]


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
    tile: Tile,
    size: tuple[int, int],
    input_size: tuple[int, int],
    image_size: int,
    logits: Array,
    score: np.float32,
    class_index: np.int64,
    click: Array,
    min_area: int,
) -> FoundMask | None:
    """A tile's mask in the original image; None where less than min_area remains."""
    height, width = tile.size
    mask = upscale_masks(logits, input_size, (height, width), image_size) > MASK_THRESHOLD
    if int(mask.sum()) < min_area:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    area = Tile(tile.top + top, tile.left + left, tile.top + bottom, tile.left + right)
    x = tile.left + float(click[0]) * width / input_size[1]
    y = tile.top + float(click[1]) * height / input_size[0]
    return FoundMask(
        class_index=int(class_index),
        score=float(score),
        click=(x, y),
        area=area,
        mask=np.ascontiguousarray(mask[top:bottom, left:right]),
        tile=tile,
        cut=touches_inner_side(mask, tile, size),
    )
