"""An image shown to a backend whole or in tiles, each embedded when a prompt first needs it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import bbox_from_mask
from cpcsam.automatic.tiling import TILE_OVERLAP, is_cut, tile_around
from cpcsam.backends.protocol import Backend
from cpcsam.geometry import Box
from cpcsam.transforms import to_frame

__all__ = ["TiledImage"]

Array = NDArray[np.float32]

KEPT_TILES: Final = 64
"""Embeddings of one image that are kept, the latest; one takes 4 MiB at an image_size of 1024."""


class TiledImage:
    """Chooses tiles for prompts as the gateway does, and keeps their embeddings.

    Attributes:
        size: (H, W) of the image.
        side: of its tiles in pixels; 0 for the whole image.
        whole: box of the image.
    """

    def __init__(self, pixels: NDArray[np.uint8], side: int, backend: Backend) -> None:
        """Show an image.

        Args:
            pixels: (H, W, 3) uint8, RGB.
            side: of the tiles in pixels; 0, or at least the longest side, for the whole image.
            backend: embeds the tiles.
        """
        self.size = (pixels.shape[0], pixels.shape[1])
        self.side = side if side < max(self.size) else 0
        self.whole = Box(0, 0, *self.size)
        self._pixels = pixels
        self._backend = backend
        self._embedded: dict[Box, tuple[Array, tuple[int, int]]] = {}

    def tile_around(self, points: NDArray[Any], side: int | None = None) -> Box:
        """Choose the tile in which points lie most centrally, or a larger one that holds them.

        Args:
            points: (N, 2), (X, Y) pixels of the image; without any, the whole image is taken.
            side: of the smallest tiles; None takes those of the image.
        """
        if not len(points):
            return self.whole
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        smallest = self.side if side is None else side
        return tile_around(self.size, smallest, TILE_OVERLAP, (x0, y0, x1, y1))

    def embed(self, tile: Box) -> tuple[Array, tuple[int, int]]:
        """Return a tile's embeddings (1, 256, G, G) and its (H, W) in the encoder's frame."""
        if tile not in self._embedded:
            frame, input_size = to_frame(tile.crop(self._pixels), self._backend.image_size)
            sizes = np.array([input_size], np.int32)
            while len(self._embedded) >= KEPT_TILES:
                del self._embedded[next(iter(self._embedded))]
            self._embedded[tile] = self._backend.encode(frame[None], sizes), input_size
        return self._embedded[tile]

    def cuts(self, mask: NDArray[np.bool_], tile: Box) -> bool:
        """Return whether a mask (h, w) of a tile reaches a side beyond which the image goes on."""
        if tile == self.whole or not mask.any():
            return False
        bbox = bbox_from_mask(mask).translate(tile.top, tile.left)
        return is_cut(bbox, tile, self.size)
