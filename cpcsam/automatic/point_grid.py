"""Point grids: regular clicks over the whole image, its crops, or its tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.tiling import tile_boxes
from cpcsam.geometry import Box

__all__ = ["PointGrid", "build_point_grids"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class PointGrid:
    """A grid of clicks over a region of the image, which the model sees by itself.

    Attributes:
        region: tile or crop of the image.
        points: (n, 2) float32, (X, Y) pixels of the region.
    """

    region: Box
    points: Array


def build_point_grids(
    size: tuple[int, int], config: MaskGeneratorConfig, tile: int, overlap: float
) -> list[PointGrid]:
    """Lay out grids over tiles, or over the whole image and then the crops of each layer.

    Layer i cuts each side of the image into 2^i crops. Their overlap halves from layer to layer.

    Args:
        size: (H, W) of the image.
        config: clicks and crops.
        tile: side of the tiles in pixels; 0 takes crops.
        overlap: of neighbouring tiles, as a fraction of their side.
    """
    if tile:
        return [_grid(box, config.points_per_side) for box in tile_boxes(size, tile, overlap)]
    grids = [_grid(Box(0, 0, *size), config.points_per_side)]
    for layer in range(1, config.crop_n_layers + 1):
        count = 2**layer
        shared = int(config.crop_overlap_ratio * min(size) * 2 / count)
        points = max(1, config.points_per_side // config.crop_n_points_downscale_factor**layer)
        rows, columns = (_crop_sides(side, count, shared) for side in size)
        grids += [
            _grid(Box(top, left, bottom, right), points)
            for left, right in columns
            for top, bottom in rows
        ]
    return grids


def _grid(region: Box, points_per_side: int) -> PointGrid:
    """Click the middles of a region's grid cells."""
    places = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(places * region.size[1], places * region.size[0])
    return PointGrid(region, np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32))


def _crop_sides(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """Return start and end of every crop along one axis."""
    # SAM's formula, rounded up, so that the crops are the same.
    side = -(-(overlap * (count - 1) + length) // count)
    starts = [index * (side - overlap) for index in range(count)]
    return [(start, min(start + side, length)) for start in starts if start < length]
