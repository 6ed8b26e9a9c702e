"""Tiling of large images into overlapping squares, each encoded at image_size; point grids.

Tiles are boxes in pixels of the original image; sizes are (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.errors import ConfigError
from cpcsam.geometry import Box

__all__ = [
    "PointGrid",
    "TILE_OVERLAP",
    "build_point_grids",
    "count_tiles",
    "is_cut",
    "spread_tiles",
    "tile_around",
    "tile_boxes",
    "tile_grid",
]

TILE_OVERLAP: Final = 0.25
"""Default overlap of neighbouring tiles, as a fraction of their side."""


def tile_grid(size: tuple[int, int], side: int, overlap: int) -> list[Box]:
    """Cover an image with tiles, row by row, as few as the overlap admits and evenly spread.

    An image that is smaller than a tile along an axis is taken whole along that axis.

    Args:
        size: (H, W) of the image.
        side: of a tile.
        overlap: what neighbours share at least.

    Raises:
        ConfigError: tiles without an extent, or an overlap that leaves no step.
    """
    rows, columns = _axes(size, side, overlap)
    return _laid_out(rows, columns, range(rows.count), range(columns.count))


def count_tiles(size: tuple[int, int], side: int, overlap: float) -> int:
    """Return the number of `tile_boxes` without laying them out; arguments as there."""
    side = side or max(size)
    rows, columns = _axes(size, side, _shared(side, overlap))
    return rows.count * columns.count


def tile_boxes(size: tuple[int, int], side: int, overlap: float) -> list[Box]:
    """Return the tiles of an image, row by row.

    Args:
        size: (H, W) of the image.
        side: of a tile; 0 takes the whole image as one tile.
        overlap: of neighbours, as a fraction of the side.
    """
    side = side or max(size)
    return tile_grid(size, side, _shared(side, overlap))


def spread_tiles(size: tuple[int, int], side: int, overlap: float, most: int) -> list[Box]:
    """Return at most `most` of `tile_boxes`, evenly spread along both axes.

    Only these are laid out.
    """
    side = side or max(size)
    rows, columns = _axes(size, side, _shared(side, overlap))
    across = round(math.sqrt(most * columns.count / rows.count))
    down = min(most // max(1, min(across, columns.count, most)), rows.count)
    across = min(most // down, columns.count)
    return _laid_out(rows, columns, rows.spread(down), columns.spread(across))


def tile_around(
    size: tuple[int, int], side: int, overlap: float, needed: tuple[float, float, float, float]
) -> Box:
    """Choose the tile of `tile_boxes` that holds a box nearest to its middle.

    If none holds it, tiles of twice the side are tried, and so on up to the whole image.

    Args:
        size: (H, W) of the image.
        side: of the tiles; 0 takes the whole image.
        overlap: of neighbours, as a fraction of the side.
        needed: the box, XYXY.
    """
    while 0 < side < max(size):
        rows, columns = _axes(size, side, _shared(side, overlap))
        x = columns.best_start(needed[0], needed[2])
        y = rows.best_start(needed[1], needed[3])
        if x is not None and y is not None:
            return Box(y, x, min(y + side, size[0]), min(x + side, size[1]))
        side *= 2
    return Box(0, 0, *size)


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis; the last one ends with the image.

    Attributes:
        length: of the image.
        side: of a tile.
        count: number of tiles.
    """

    length: int
    side: int
    count: int

    def start(self, index: int) -> int:
        """Return where a tile starts."""
        return round(index * (self.length - self.side) / (self.count - 1)) if index else 0

    def spread(self, count: int) -> list[int]:
        """Return the indices of `count` tiles, each the middle one of as many equal parts."""
        return [(2 * part + 1) * self.count // (2 * count) for part in range(count)]

    def best_start(self, first: float, last: float) -> int | None:
        """Return the start of the tile whose middle is nearest to that of first and last.

        None if it does not hold both; then no tile does, as its middle would be nearer.
        """
        double = first + last - min(self.side, self.length)
        index = 0
        if self.count > 1:
            index = int(double / 2 * (self.count - 1) / (self.length - self.side))
        near = {min(max(index + shift, 0), self.count - 1) for shift in (-1, 0, 1, 2)}
        # Of two that are as near, the later: the earlier ends before what begins at its side.
        start = min(map(self.start, near), key=lambda place: (abs(2 * place - double), -place))
        return start if start <= first and last <= start + self.side else None


def _axes(size: tuple[int, int], side: int, overlap: int) -> tuple[_Axis, _Axis]:
    """Return the rows and the columns of tiles that share at least `overlap` pixels.

    Raises:
        ConfigError: tiles without an extent, or an overlap that leaves no step.
    """
    if side < 1 or not 0 <= overlap < side:
        raise ConfigError.of(
            "tile and overlap",
            got=f"{side} and {overlap}",
            expected="a tile of at least 1 pixel and an overlap from 0 to below it",
            fix="make the overlap smaller",
        )
    # Rounded up, so that neighbours overlap by no less than wanted.
    rows, columns = (
        _Axis(length, side, 1 + max(0, -(-(length - side) // (side - overlap)))) for length in size
    )
    return rows, columns


def _laid_out(rows: _Axis, columns: _Axis, down: Iterable[int], across: Sequence[int]) -> list[Box]:
    """Return the tiles of these indices, row by row."""
    return [
        Box(top, left, min(top + rows.side, rows.length), min(left + rows.side, columns.length))
        for top in map(rows.start, down)
        for left in map(columns.start, across)
    ]


def _shared(side: int, overlap: float) -> int:
    """Return the pixels that neighbouring tiles share at least."""
    return min(int(side * overlap), side - 1)


def is_cut(bbox: Box, tile: Box, size: tuple[int, int]) -> bool:
    """Return whether a mask reaches a side of its tile that is not a side of the image.

    Such a mask may go on in the next tile, so it may not be a whole entity.

    Args:
        bbox: of the mask, in the image, within the tile and not empty.
        tile: that the mask was predicted in.
        size: (H, W) of the image.
    """
    return (
        0 < tile.top == bbox.top
        or 0 < tile.left == bbox.left
        or size[0] > tile.bottom == bbox.bottom
        or size[1] > tile.right == bbox.right
    )


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
