"""A mask of an answer, in whichever form it came.

Boxes are XYXY, in pixels of the original image; sizes are (H, W).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cpcsam.client.prompts import XYXY, LowResMask
from cpcsam.errors import ContractError

__all__ = ["Mask", "MaskFormat", "Ring", "encode_run_lengths", "fill_rings"]

Ring = tuple[tuple[float, float], ...]
"""Corners (X, Y) of a closed line along the sides of pixels."""


class MaskFormat(IntEnum):
    """In which form the server returns masks; the values are those of the API."""

    COCO_RLE = 0
    """Run lengths: small, and what COCO's tools read."""
    PNG = 1
    """A PNG file with one bit a pixel."""
    POLYGONS = 2
    """Outlines along the sides of pixels, exactly."""
    NONE = 3
    """No mask, only its score, box and the like, or its logits."""


@dataclass(frozen=True)
class Mask:
    """One mask of a prompt.

    Attributes:
        size: (H, W) of the original image.
        counts: COCO compressed run lengths, if it came so.
        score: predicted IoU with the entity; with classes, times the probability of the class.
        box: XYXY, the smallest box that holds the mask; all zero for an empty mask.
        area: pixels in the mask.
        label: name of the class, where classes were asked for.
        stability: how little the mask changes with the threshold of its logits, 0 to 1.
        png: bytes of a file, if it came so.
        rings: outer rings and those of holes, if it came so.
        low_res_mask: its logits, where they were asked for.
    """

    size: tuple[int, int]
    counts: str
    score: float
    box: XYXY
    area: int
    label: str = ""
    stability: float = 0.0
    png: bytes = field(default=b"", repr=False)
    rings: tuple[Ring, ...] | None = field(default=None, repr=False)
    low_res_mask: LowResMask | None = None

    @cached_property
    def array(self) -> NDArray[np.bool_]:
        """The mask, (H, W) bool; decoded at the first use and then kept.

        Raises:
            ContractError: it came in no form.
        """
        if self.counts:
            decoded: NDArray[np.uint8] = coco_mask.decode(self.rle)
            return decoded.astype(bool)
        if self.png:
            with Image.open(io.BytesIO(self.png), formats=("PNG",)) as picture:
                return np.array(picture.convert("1"))
        if self.rings is not None:
            return fill_rings(self.rings, self.size)
        raise ContractError.of(
            "mask", got="no pixels", expected="some form", fix="ask for another mask_format"
        )

    @cached_property
    def rle(self) -> dict[str, Any]:
        """The mask as `pycocotools.mask` and COCO's JSON spell it.

        Raises:
            ContractError: it came in no form.
        """
        return {"size": list(self.size), "counts": self.counts or encode_run_lengths(self.array)}


def encode_run_lengths(mask: NDArray[np.bool_]) -> str:
    """COCO compressed run lengths of an (H, W) mask."""
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts.decode()


def fill_rings(rings: Sequence[Ring], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill rings along the sides of pixels by the even-odd rule.

    Args:
        rings: as the API sends them.
        size: (H, W) of the image.

    Returns:
        (H, W) bool.
    """
    height, width = size
    crossed = np.zeros((height, width + 1), bool)
    for ring in rings:
        for (x, y), (next_x, next_y) in zip(ring, (*ring[1:], ring[0]), strict=True):
            if x == next_x:
                crossed[int(min(y, next_y)) : int(max(y, next_y)), int(x)] ^= True
    filled: NDArray[np.bool_] = np.logical_xor.accumulate(crossed, axis=1)[:, :width]
    return filled
