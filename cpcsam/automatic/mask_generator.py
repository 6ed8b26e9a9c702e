"""Automatic mask generation: everything in an image, by grids of clicks, as SAM's generator does.

Every click gives three masks. Those with a high predicted IoU and a high stability stay, and of
several whose boxes overlap the best (NMS). Crops, or tiles, have grids of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_filtering import filter_masks, merge_crops, merge_tiles
from cpcsam.automatic.tiling import TILE_OVERLAP, PointGrid, build_point_grids
from cpcsam.backends.protocol import Backend
from cpcsam.contract import MULTIMASK, PROMPT_BUCKETS, PointLabel
from cpcsam.transforms import resize_coords, to_frame

__all__ = ["AutomaticMaskGenerator"]


class AutomaticMaskGenerator:
    """Generates masks for everything in an image."""

    def __init__(self, backend: Backend, config: MaskGeneratorConfig | None = None) -> None:
        """Generate with a loaded model.

        Args:
            backend: the model.
            config: grids and thresholds; None takes SAM's defaults.
        """
        self._backend = backend
        self._config = config or MaskGeneratorConfig()

    def generate(
        self, image: NDArray[np.uint8], tile: int = 0, overlap: float = TILE_OVERLAP
    ) -> list[InstanceMask]:
        """Generate the masks of one image.

        Args:
            image: (H, W, 3) uint8, RGB, of any size.
            tile: side of tiles in pixels, each with a grid of clicks, which then are merged; 0
                takes the whole image and the crops of the configuration.
            overlap: of neighbouring tiles, as a fraction of their side.

        Returns:
            Masks in the original image, best first.
        """
        size = image.shape[0], image.shape[1]
        grids = build_point_grids(size, self._config, tile, overlap)
        masks = [self._masks(grid, image) for grid in grids]
        if tile:
            return merge_tiles(grids, masks, self._config)
        return merge_crops(masks, size, self._config)

    def _masks(self, grid: PointGrid, image: NDArray[np.uint8]) -> list[InstanceMask]:
        """Decode all clicks of a grid and filter the masks."""
        backend = self._backend
        frame, input_size = to_frame(grid.region.crop(image), backend.image_size)
        embeddings = backend.encode(frame[None], np.array([input_size], np.int32))
        kept: list[InstanceMask] = []
        for start in range(0, len(grid.points), PROMPT_BUCKETS[-1]):
            points = grid.points[start : start + PROMPT_BUCKETS[-1]]
            coords = resize_coords(points, grid.region.size, backend.image_size)
            labels = np.full((1, len(points), 1), PointLabel.FOREGROUND, np.int32)
            masks, scores = backend.decode(embeddings, coords[None, :, None], labels)
            kept += filter_masks(
                grid,
                points,
                (masks[0, :, MULTIMASK], scores[0, :, MULTIMASK]),
                input_size,
                backend.image_size,
                (image.shape[0], image.shape[1]),
                self._config,
            )
        return kept
