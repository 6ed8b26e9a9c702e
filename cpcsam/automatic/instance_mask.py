"""Instance masks: run lengths (RLE) with their bounding box, area and scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.rle import mask_from_rle, rle_from_crop, rle_from_mask
from cpcsam.geometry import EMPTY_BOX, Box

__all__ = ["InstanceMask", "bbox_from_mask", "paste_crop"]

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class InstanceMask:
    """A mask of one entity in an image, as run lengths.

    Attributes:
        bbox: smallest box around the mask, pixels of the image.
        area: pixels of the mask.
        counts: COCO run lengths of the mask within `frame`.
        frame: box of the image that `counts` describe; the mask is empty outside it.
        score: confidence, the higher the better; predicted IoU, or that times the class's
            mean probability under the mask.
        stability: IoU of the mask at a raised and a lowered threshold, 0 to 1; 1 without logits.
        class_index: of its class.
        point: (X, Y) of the prompt, or the middle of its box, pixels of the image.
        tile: tile or crop that the mask was predicted in, or that of its best part.
        is_cut: whether it reaches an inner side of its tile, so that a part may be missing.
    """

    bbox: Box
    area: int
    counts: bytes
    frame: Box
    score: float
    tile: Box
    is_cut: bool = False
    stability: float = 1.0
    class_index: int = 0
    point: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def from_mask(
        cls,
        mask: BoolMask,
        frame: Box,
        *,
        score: float,
        tile: Box,
        is_cut: bool = False,
        stability: float = 1.0,
        class_index: int = 0,
        point: tuple[float, float] = (0.0, 0.0),
    ) -> InstanceMask:
        """Encode a mask that is given within a box of the image.

        Args:
            mask: (h, w) bool, of the frame's size.
            frame: box of the image; the mask is empty outside it.
            score: see the class, as for the other arguments.
            tile: tile or crop that it was predicted in.
            is_cut: whether it reaches an inner side of the tile.
            stability: 0 to 1.
            class_index: of its class.
            point: (X, Y) of its prompt, pixels of the image.
        """
        bbox = bbox_from_mask(mask)
        return cls(
            # An empty box is recognised by its value, so it stays at the origin.
            bbox=EMPTY_BOX if bbox == EMPTY_BOX else bbox.translate(frame.top, frame.left),
            area=int(mask.sum()),
            counts=rle_from_mask(mask),
            frame=frame,
            score=score,
            tile=tile,
            is_cut=is_cut,
            stability=stability,
            class_index=class_index,
            point=point,
        )

    @property
    def mask(self) -> BoolMask:
        """The mask within its bounding box, (h, w) bool; decoded at each access."""
        decoded = mask_from_rle(self.counts, self.frame.size)
        return self.bbox.translate(-self.frame.top, -self.frame.left).crop(decoded)

    def in_region(self, region: Box) -> BoolMask:
        """Decode the mask within a region of the image, (h, w) bool of the region's size."""
        return paste_crop(self.mask, self.bbox, region)

    def rle(self, size: tuple[int, int]) -> bytes:
        """Return COCO run lengths of the mask in the whole image.

        Args:
            size: (H, W) of the image.
        """
        if self.frame == Box(0, 0, *size):
            return self.counts
        return rle_from_crop(self.mask, self.bbox, size)


def bbox_from_mask(mask: BoolMask) -> Box:
    """Return the smallest box around a mask (h, w) bool; `EMPTY_BOX` if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return EMPTY_BOX
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def paste_crop(crop: BoolMask, box: Box, region: Box) -> BoolMask:
    """Paste a mask that is known within a box into a region of the image.

    Args:
        crop: (h, w) bool, of the box's size; the mask is empty outside the box.
        box: of the image.
        region: of the image.

    Returns:
        (H, W) bool of the region's size.
    """
    result = np.zeros(region.size, bool)
    shared = box.intersection(region)
    if shared is not None:
        target = shared.translate(-region.top, -region.left)
        result[target.slices] = shared.translate(-box.top, -box.left).crop(crop)
    return result
