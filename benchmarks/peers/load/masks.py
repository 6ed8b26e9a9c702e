"""Masks as systems return them: arrays, or COCO run lengths."""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

from cpcsam.automatic.rle import rle_from_mask

__all__ = ["Mask", "counts_of"]

Mask: TypeAlias = "NDArray[Any] | bytes"
"""A (H, W) bool array, or the `counts` of COCO's compressed run lengths."""


def counts_of(mask: Mask) -> bytes:
    """Return the `counts` of a mask."""
    return mask if isinstance(mask, bytes) else rle_from_mask(mask)
