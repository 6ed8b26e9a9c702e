"""Large images in overlapping tiles, each shown to the model enlarged.

A tile is a square of the original image; the encoder's frame shows it at image_size, so small
entities grow. Sizes are (H, W), in pixels of the original image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ConfigError

__all__ = ["TILE_OVERLAP", "Tile", "is_cut", "tile_around", "tile_grid", "tiles_of"]

Kind = TypeVar("Kind", bound=np.generic)

TILE_OVERLAP: Final = 0.25
"""Of neighbouring tiles, as a part of their side, where nobody asks for another."""


@dataclass(frozen=True)
class Tile:
    """A part of an image: rows top to bottom, columns left to right, the far ends exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, image: NDArray[Kind]) -> NDArray[Kind]:
        """The tile's pixels, a view of the image (H, W, ...)."""
        return image[self.top : self.bottom, self.left : self.right]

    def within(self, outer: Tile) -> Tile:
        """The same part, told in the image in which its frame is `outer`."""
        return Tile(
            outer.top + self.top,
            outer.left + self.left,
            outer.top + self.bottom,
            outer.left + self.right,
        )

    def shared_with(self, other: Tile) -> Tile | None:
        """The part that both tiles show; None where they are apart."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Tile(top, left, bottom, right) if top < bottom and left < right else None


def tile_grid(size: tuple[int, int], side: int, overlap: int) -> list[Tile]:
    """Cover an image with tiles, row by row, as few as the overlap admits and evenly spread.

    An image that is smaller than a tile along an axis is taken whole along that axis.

    Args:
        size: (H, W) of the image.
        side: of a tile.
        overlap: what neighbours share at least.

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
    rows, columns = (_starts(length, side, side - overlap) for length in size)
    return [
        Tile(top, left, min(top + side, size[0]), min(left + side, size[1]))
        for top in rows
        for left in columns
    ]


def tiles_of(
    size: tuple[int, int], side: int, overlap: float, max_tiles: int | None = None
) -> list[Tile]:
    """The tiles in which an image is shown.

    Args:
        size: (H, W) of the image.
        side: of a tile; 0 shows the whole image at once.
        overlap: of neighbours, as a part of the side.
        max_tiles: at most so many, evenly spread; None takes all.
    """
    side = side or max(size)
    tiles = tile_grid(size, side, min(int(side * overlap), side - 1))
    count = min(len(tiles), max_tiles or len(tiles))
    return [tiles[index * len(tiles) // count] for index in range(count)]


def tile_around(
    size: tuple[int, int], side: int, overlap: float, needed: tuple[float, float, float, float]
) -> Tile:
    """Of the tiles of `tiles_of` that hold a box the one in whose middle it lies most.

    Where none holds it, tiles of twice the side are taken, and so on up to the whole image.

    Args:
        size: (H, W) of the image.
        side: of the tiles; 0 takes the whole image.
        overlap: of neighbours, as a part of the side.
        needed: the box, XYXY.
    """
    while 0 < side < max(size):
        step = side - min(int(side * overlap), side - 1)
        x = _best_start(size[1], side, step, needed[0], needed[2])
        y = _best_start(size[0], side, step, needed[1], needed[3])
        if x is not None and y is not None:
            return Tile(y, x, min(y + side, size[0]), min(x + side, size[1]))
        side *= 2
    return Tile(0, 0, *size)


def _best_start(length: int, side: int, step: int, first: float, last: float) -> int | None:
    """Where along one axis the tile begins whose middle is nearest to that of first and last."""
    holding = [
        start for start in _starts(length, side, step) if start <= first and last <= start + side
    ]
    return min(
        holding, key=lambda start: abs(2 * start + min(side, length) - first - last), default=None
    )


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where tiles begin along one axis; the last one ends with the image."""
    if length <= side:
        return [0]
    steps = -(-(length - side) // step)
    return [round(index * (length - side) / steps) for index in range(steps + 1)]


def is_cut(area: Tile, tile: Tile, size: tuple[int, int]) -> bool:
    """Tell whether what a tile shows reaches a side of it that is not a side of the image.

    What does may go on in the next tile, so it is not a whole entity.

    Args:
        area: in the image, within the tile and not empty.
        tile: where it was found.
        size: (H, W) of the image.
    """
    return (
        0 < tile.top == area.top
        or 0 < tile.left == area.left
        or size[0] > tile.bottom == area.bottom
        or size[1] > tile.right == area.right
    )
