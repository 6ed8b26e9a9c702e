"""Large images in overlapping tiles, each shown to the model enlarged.

A tile is a square of the original image; the encoder's frame shows it at image_size, so small
entities grow. Sizes are (H, W), in pixels of the original image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ConfigError

__all__ = ["Tile", "tile_grid", "tiles_of", "touches_inner_side"]


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

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The tile's pixels, a view of the image (H, W, ...)."""
        return image[self.top : self.bottom, self.left : self.right]

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


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where tiles begin along one axis; the last one ends with the image."""
    if length <= side:
        return [0]
    steps = -(-(length - side) // step)
    return [round(index * (length - side) / steps) for index in range(steps + 1)]


def touches_inner_side(
    mask: NDArray[np.bool_], tile: Tile, size: tuple[int, int], margin: int = 1
) -> bool:
    """Tell whether a mask reaches a side of its tile that is not a side of the image.

    What does may go on in the next tile, so it is not a whole entity.

    Args:
        mask: (H, W) bool, of the tile's size.
        tile: where the mask lies.
        size: (H, W) of the image.
        margin: how many pixels from the side still count as touching.
    """
    return bool(
        (tile.top > 0 and mask[:margin].any())
        or (tile.left > 0 and mask[:, :margin].any())
        or (tile.bottom < size[0] and mask[-margin:].any())
        or (tile.right < size[1] and mask[:, -margin:].any())
    )
