"""Masks of a result, in any of the formats of the API.

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

from cpcsam.client.prompts import XYXY, LowResMask
from cpcsam.errors import ContractError, extra

__all__ = ["Mask", "MaskFormat", "Ring", "encode_run_lengths", "fill_rings"]

Ring = tuple[tuple[float, float], ...]
"""Vertices (X, Y) of a closed polygon along pixel edges, in pixels."""


class MaskFormat(IntEnum):
    """Encoding of returned masks; the values are those of the API."""

    COCO_RLE = 0
    """COCO compressed RLE: small, and read by COCO's tools."""
    PNG = 1
    """PNG file with one bit per pixel."""
    POLYGONS = 2
    """Polygons along pixel edges, lossless."""
    NONE = 3
    """No pixels: scores, boxes and areas only, and logits if requested."""


@dataclass(frozen=True)
class Mask:
    """Mask of an entity, with its score, box and area.

    Attributes:
        size: (H, W) of the original image.
        counts: COCO compressed RLE; empty in other formats.
        score: predicted IoU with the entity, 0 to 1; times the class probability for classes.
        box: XYXY in pixels, the tight bounding box; all zero for an empty mask.
        area: number of pixels in the mask.
        label: name of the class, if classes were requested.
        stability: stability score, the IoU of the mask at a raised and a lowered logit threshold,
            0 to 1.
        png: bytes of a PNG file; empty in other formats.
        rings: polygons of outer boundaries and holes; None in other formats.
        low_res_mask: its logits, if requested.
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
        """Decoded mask, (H, W) bool; cached after the first access.

        Raises:
            ContractError: the mask was requested without pixels.
            ModuleNotFoundError: Pillow or pycocotools is needed and not installed.
        """
        if self.counts:
            with extra("client"):
                from pycocotools import mask as coco_mask
            decoded: NDArray[np.uint8] = coco_mask.decode(self.rle)
            return decoded.astype(bool)
        if self.png:
            with extra("client"):
                from PIL import Image
            with Image.open(io.BytesIO(self.png), formats=("PNG",)) as picture:
                return np.array(picture.convert("1"))
        if self.rings is not None:
            return fill_rings(self.rings, self.size)
        raise ContractError.of(
            "mask", got="no pixels", expected="some form", fix="ask for another mask_format"
        )

    @cached_property
    def rle(self) -> dict[str, Any]:
        """COCO RLE of the mask, `size` (H, W) and `counts`, as `pycocotools.mask` takes it.

        Raises:
            ContractError: the mask was requested without pixels.
            ModuleNotFoundError: as `array`.
        """
        return {"size": list(self.size), "counts": self.counts or encode_run_lengths(self.array)}


def encode_run_lengths(mask: NDArray[np.bool_]) -> str:
    """Encode an (H, W) bool mask as COCO compressed RLE."""
    with extra("client"):
        from pycocotools import mask as coco_mask
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts.decode()


def fill_rings(rings: Sequence[Ring], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Rasterise polygons along pixel edges by the even-odd rule.

    Args:
        rings: polygons of outer boundaries and holes, (X, Y) in pixels.
        size: (H, W) of the image.

    Returns:
        (H, W) bool.
    """
    height, width = size
    crossed = np.zeros((height, width + 1), bool)
    for ring in rings:
        for (x, y), (next_x, next_y) in zip(ring, (*ring[1:], ring[0]), strict=True):
            # A vertical edge toggles all pixels to its right, so a running xor fills the rings.
            if x == next_x:
                crossed[int(min(y, next_y)) : int(max(y, next_y)), int(x)] ^= True
    filled: NDArray[np.bool_] = np.logical_xor.accumulate(crossed, axis=1)[:, :width]
    return filled
