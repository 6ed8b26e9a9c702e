"""Everything in an image, by a grid of clicks: SAM's automatic mask generator on numpy arrays.

Every click gives three masks. Those that are predicted to be good, and that hardly change with
their threshold, stay; of several whose boxes agree, the best. Crops are looked at with grids of
their own. No function here calls a model, so torch, ONNX Runtime and the gateway all fit.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.mask_cropping import place_mask
from cpcsam.automatic.mask_merging import FoundMask, merge_masks
from cpcsam.automatic.tiling import Tile, is_cut, tiles_of
from cpcsam.checks import require_range
from cpcsam.contract import STABILITY_OFFSET

__all__ = [
    "Candidate",
    "EverythingSettings",
    "View",
    "best_of_crops",
    "judge",
    "merged_tiles",
    "views_of",
]

EDGE: Final = 20.0
"""A mask this near to a side of its crop, in pixels, may be cut off by it; as in SAM."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class EverythingSettings:
    """How everything is looked for; the defaults are those of SAM's automatic mask generator.

    Attributes:
        points_per_side: clicks along each side of the grid.
        min_iou: predicted IoU up to which a mask is dropped.
        min_stability: stability below which a mask is dropped.
        stability_offset: by which the threshold moves to tell the stability.
        max_box_iou: IoU of two boxes above which the mask with the lower score is dropped.
        crop_layers: of crops beside the whole image.
        crop_overlap: of crops, as a part of the image's shorter side.
        crop_points_divisor: by which the clicks a side get fewer with each layer.
        max_crop_box_iou: as max_box_iou, but of masks of different crops: the smaller crop's stays.
        min_area: least pixels of a mask.
    """

    points_per_side: int = 32
    min_iou: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = STABILITY_OFFSET
    max_box_iou: float = 0.7
    crop_layers: int = 0
    crop_overlap: float = 512 / 1500
    crop_points_divisor: int = 1
    max_crop_box_iou: float = 0.7
    min_area: int = 0

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        for name in ("min_iou", "min_stability", "max_box_iou", "max_crop_box_iou"):
            require_range(name, getattr(self, name), 0, 1)
        require_range("points_per_side", self.points_per_side, 1)
        require_range("crop_layers", self.crop_layers, 0, 8)
        require_range("crop_points_divisor", self.crop_points_divisor, 1)
        require_range("crop_overlap", self.crop_overlap, 0, 1, below=True)
        require_range("stability_offset", self.stability_offset, 0, above=True)


@dataclass(frozen=True)
class View:
    """A part of the image that is looked at by itself.

    Attributes:
        part: of the image.
        clicks: (n, 2) float32, (X, Y) pixels of the part.
    """

    part: Tile
    clicks: Array


@dataclass(frozen=True)
class Candidate:
    """A mask that is good enough by itself, small in memory.

    Attributes:
        score: predicted IoU.
        stability: of the mask.
        click: (X, Y), in the image.
        area: smallest box around it, in the image.
        packed: the mask within the area, as compressed bits.
        part: that was looked at.
    """

    score: float
    stability: float
    click: tuple[float, float]
    area: Tile
    packed: bytes
    part: Tile

    def unpacked(self, size: tuple[int, int]) -> FoundMask:
        """The mask in an image of size (H, W)."""
        height, width = self.area.size
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        mask = np.unpackbits(bits, count=height * width).view(bool).reshape(height, width)
        cut = is_cut(self.area, self.part, size)
        return FoundMask(0, self.score, self.click, self.area, mask, self.part, cut, self.stability)


def _view(part: Tile, points_per_side: int) -> View:
    """Look at a part of an image by a grid of clicks, in the middles of its cells."""
    places = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(places * part.size[1], places * part.size[0])
    return View(part, np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32))


def views_of(
    size: tuple[int, int], settings: EverythingSettings, tile: int, overlap: float
) -> list[View]:
    """What of an image is looked at: tiles, or the whole image and then the crops of each layer.

    Layer i cuts each side of the image into 2^i crops. Their overlap halves from layer to layer.

    Args:
        size: (H, W) of the image.
        settings: how to look.
        tile: side of the tiles; 0 takes crops.
        overlap: of neighbouring tiles, as a part of their side.
    """
    if tile:
        return [_view(part, settings.points_per_side) for part in tiles_of(size, tile, overlap)]
    views = [_view(Tile(0, 0, *size), settings.points_per_side)]
    for layer in range(1, settings.crop_layers + 1):
        count = 2**layer
        overlap = int(settings.crop_overlap * min(size) * 2 / count)
        points = max(1, settings.points_per_side // settings.crop_points_divisor**layer)
        rows, columns = (_crop_sides(side, count, overlap) for side in size)
        views += [
            _view(Tile(top, left, bottom, right), points)
            for left, right in columns
            for top, bottom in rows
        ]
    return views


def _crop_sides(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """From where to where crops go along one axis."""
    side = -(-(overlap * (count - 1) + length) // count)
    starts = [index * (side - overlap) for index in range(count)]
    return [(start, min(start + side, length)) for start in starts if start < length]


def judge(
    view: View,
    clicks: Array,
    answer: tuple[Array, Array],
    input_size: tuple[int, int],
    image_size: int,
    settings: EverythingSettings,
) -> list[Candidate]:
    """Of the masks of some clicks those that are good enough, in order.

    Args:
        view: that was clicked.
        clicks: (P, 2), those of the view that the masks answer.
        answer: low_res_masks (P, 3, 4G, 4G) and scores (P, 3).
        input_size: (H, W) of the view in the encoder's frame.
        image_size: side of the encoder's frame.
        settings: how to look.
    """
    low_res_masks, scores = answer
    found = []
    for row, column in np.argwhere(scores > settings.min_iou):
        placed = place_mask(
            low_res_masks[row, column],
            input_size,
            view.part.size,
            image_size,
            settings.stability_offset,
        )
        if placed.stability < settings.min_stability:
            continue
        if int(placed.mask.sum()) < max(settings.min_area, 1):
            continue
        x, y = (float(value) for value in clicks[row])
        found.append(
            Candidate(
                score=float(scores[row, column]),
                stability=placed.stability,
                click=(view.part.left + x, view.part.top + y),
                area=placed.area.within(view.part),
                packed=zlib.compress(np.packbits(placed.mask).tobytes(), 1),
                part=view.part,
            )
        )
    return found


def _best_of_view(candidates: Sequence[Candidate], settings: EverythingSettings) -> list[Candidate]:
    """Of the masks of one view whose boxes agree the one with the highest score, best first."""
    return _suppress(candidates, [one.score for one in candidates], settings.max_box_iou)


def best_of_crops(
    crops: Sequence[Sequence[Candidate]], size: tuple[int, int], settings: EverythingSettings
) -> list[Candidate]:
    """Put crops together: what a crop cuts off is dropped, and repetitions.

    Args:
        crops: the masks of each crop.
        size: (H, W) of the image.
        settings: how to look.

    Returns:
        Best first.
    """
    best = [
        one
        for crop in crops
        for one in _best_of_view([one for one in crop if not _at_edge(one, size)], settings)
    ]
    if len(crops) > 1:
        smallness = [1 / (one.part.size[0] * one.part.size[1]) for one in best]
        best = _suppress(best, smallness, settings.max_crop_box_iou)
    return sorted(best, key=lambda one: -one.score)


def merged_tiles(
    views: Sequence[View],
    seen: Sequence[Sequence[Candidate]],
    size: tuple[int, int],
    settings: EverythingSettings,
) -> list[FoundMask]:
    """Put overlapping tiles together: what several show is united, by vote; see `merge_masks`.

    Args:
        views: all tiles.
        seen: the masks of each tile.
        size: (H, W) of the image.
        settings: how to look.

    Returns:
        Best first.
    """
    found = [one.unpacked(size) for tile in seen for one in _best_of_view(tile, settings)]
    tiles = [view.part for view in views]
    merged = merge_masks(found, tiles, iou=settings.max_box_iou, nested=True)
    return [one for one in merged if int(one.mask.sum()) >= settings.min_area]


def _at_edge(one: Candidate, size: tuple[int, int]) -> bool:
    """Whether a mask comes near a side of its crop that is not near that side of the image."""
    box, crop = _box(one.area), (one.part.left, one.part.top, one.part.right, one.part.bottom)
    image = (0, 0, size[1], size[0])
    return any(
        abs(at - side) <= EDGE < abs(at - end)
        for at, side, end in zip(box, crop, image, strict=True)
    )


def _box(area: Tile) -> tuple[float, float, float, float]:
    """XYXY as SAM compares boxes: the last pixel itself is the corner."""
    return float(area.left), float(area.top), float(area.right - 1), float(area.bottom - 1)


def _suppress(
    candidates: Sequence[Candidate], priorities: Sequence[float], max_iou: float
) -> list[Candidate]:
    """Non-maximum suppression on boxes: of two with a larger IoU the one with priority stays."""
    boxes = np.array([_box(one.area) for one in candidates], np.float32).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-np.asarray(priorities, np.float32), kind="stable")
    kept = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(candidates[first])
        sides = np.minimum(boxes[first, 2:], boxes[order, 2:]) - np.maximum(
            boxes[first, :2], boxes[order, :2]
        )
        shared = np.maximum(sides, 0).prod(1)
        union = np.maximum(areas[first] + areas[order] - shared, 1e-9)
        order = order[shared / union <= max_iou]
    return kept
