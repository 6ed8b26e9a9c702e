"""Filters of the automatic mask generator: predicted IoU, stability, box NMS, crops and tiles.

No function here calls a model, so that torch, ONNX Runtime and the gateway share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.automatic.mask_merging import merge_masks
from cpcsam.automatic.tiling import PointGrid, is_cut
from cpcsam.geometry import Box

__all__ = ["box_nms", "filter_masks", "merge_crops", "merge_tiles"]

CROP_EDGE: Final = 20.0
"""A mask this near to a side of its crop, in pixels, may be cut off by it; as in SAM."""

Array = NDArray[np.float32]


def filter_masks(
    grid: PointGrid,
    points: Array,
    outputs: tuple[Array, Array],
    input_size: tuple[int, int],
    image_size: int,
    size: tuple[int, int],
    config: MaskGeneratorConfig,
) -> list[InstanceMask]:
    """Keep the masks of some clicks that pass the thresholds, in order.

    Args:
        grid: that was clicked.
        points: (P, 2), those of the grid that the masks answer.
        outputs: low_res_masks (P, 3, 4G, 4G) and iou_predictions (P, 3).
        input_size: (H, W) of the grid's region in the encoder's frame.
        image_size: side of the encoder's frame.
        size: (H, W) of the whole image.
        config: thresholds.
    """
    low_res_masks, iou_predictions = outputs
    kept = []
    # The cheap filter first: only masks that pass it are upsampled.
    for row, column in np.argwhere(iou_predictions > config.pred_iou_thresh):
        pasted = paste_mask(
            low_res_masks[row, column],
            input_size,
            grid.region.size,
            image_size,
            config.stability_score_offset,
        )
        if pasted.stability < config.stability_score_thresh:
            continue
        if pasted.area < max(config.min_mask_region_area, 1):
            continue
        x, y = (float(value) for value in points[row])
        bbox = pasted.bbox.translate(grid.region.top, grid.region.left)
        kept.append(
            InstanceMask.from_mask(
                pasted.mask,
                bbox,
                score=float(iou_predictions[row, column]),
                tile=grid.region,
                is_cut=is_cut(bbox, grid.region, size),
                stability=pasted.stability,
                point=(grid.region.left + x, grid.region.top + y),
            )
        )
    return kept


def merge_crops(
    crops: Sequence[Sequence[InstanceMask]], size: tuple[int, int], config: MaskGeneratorConfig
) -> list[InstanceMask]:
    """Merge the masks of crops by box NMS, within each crop and between crops.

    Masks that their crop may cut off are dropped.

    Args:
        crops: the masks of each crop.
        size: (H, W) of the image.
        config: thresholds.

    Returns:
        Best first.
    """
    merged = [
        mask
        for crop in crops
        for mask in _nms_by_score([m for m in crop if not _is_near_crop_edge(m, size)], config)
    ]
    if len(crops) > 1:
        # As in SAM: a smaller crop shows more detail, so its mask wins.
        smallness = [1 / (mask.tile.size[0] * mask.tile.size[1]) for mask in merged]
        merged = [merged[i] for i in box_nms(merged, smallness, config.crop_nms_thresh)]
    return sorted(merged, key=lambda mask: -mask.score)


def merge_tiles(
    grids: Sequence[PointGrid],
    tiles: Sequence[Sequence[InstanceMask]],
    config: MaskGeneratorConfig,
) -> list[InstanceMask]:
    """Merge the masks of overlapping tiles by vote; see `merge_masks`.

    Args:
        grids: of all tiles.
        tiles: the masks of each tile.
        config: thresholds.

    Returns:
        Best first.
    """
    masks = [mask for tile in tiles for mask in _nms_by_score(tile, config)]
    regions = [grid.region for grid in grids]
    merged = merge_masks(masks, regions, iou=config.box_nms_thresh, nested=True)
    return [mask for mask in merged if mask.area >= config.min_mask_region_area]


def box_nms(
    masks: Sequence[InstanceMask], priorities: Sequence[float], iou_threshold: float
) -> list[int]:
    """Non-maximum suppression (NMS) on bounding boxes.

    Args:
        masks: whose boxes are compared.
        priorities: of two masks with a larger IoU the one with the higher priority stays.
        iou_threshold: 0 to 1.

    Returns:
        Indices of the masks that stay, highest priority first.
    """
    boxes = np.array([_corners(mask.bbox) for mask in masks], np.float32).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-np.asarray(priorities, np.float32), kind="stable")
    kept = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(int(first))
        sides = np.minimum(boxes[first, 2:], boxes[order, 2:]) - np.maximum(
            boxes[first, :2], boxes[order, :2]
        )
        intersection = np.maximum(sides, 0).prod(1)
        # With the last pixel as corner, the box of a line of pixels has no area.
        union = np.maximum(areas[first] + areas[order] - intersection, 1e-9)
        order = order[intersection / union <= iou_threshold]
    return kept


def _nms_by_score(masks: Sequence[InstanceMask], config: MaskGeneratorConfig) -> list[InstanceMask]:
    """Keep the best of the masks of one region whose boxes overlap, best first."""
    kept = box_nms(masks, [mask.score for mask in masks], config.box_nms_thresh)
    return [masks[index] for index in kept]


def _is_near_crop_edge(mask: InstanceMask, size: tuple[int, int]) -> bool:
    """Return whether a mask is near a side of its crop that is not near that side of the image."""
    image = (0, 0, size[1], size[0])
    return any(
        abs(at - side) <= CROP_EDGE < abs(at - end)
        for at, side, end in zip(_corners(mask.bbox), mask.tile.xyxy, image, strict=True)
    )


def _corners(box: Box) -> tuple[float, float, float, float]:
    """XYXY as SAM compares boxes: the last pixel itself is the corner."""
    return float(box.left), float(box.top), float(box.right - 1), float(box.bottom - 1)
