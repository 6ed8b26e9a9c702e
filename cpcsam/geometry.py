"""Boxes of whole pixels: bounding boxes, tiles and crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMPTY_BOX", "Box"]

Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True)
class Box:
    """A box of an image's pixels: rows top to bottom, columns left to right, far ends exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box's pixels in an image, rows first."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def crop(self, image: NDArray[Kind]) -> NDArray[Kind]:
        """Return the box's pixels, a view of the image (H, W, ...)."""
        return image[self.slices]

    def translate(self, top: int, left: int) -> Box:
        """Move the box down and to the right."""
        return Box(self.top + top, self.left + left, self.bottom + top, self.right + left)

    def intersection(self, other: Box) -> Box | None:
        """Return the box that both share, or None if they are disjoint."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Box(top, left, bottom, right) if top < bottom and left < right else None

    def enclosing(self, other: Box) -> Box:
        """Return the smallest box that holds both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )


EMPTY_BOX: Final = Box(0, 0, 0, 0)
"""Bounding box of an empty mask."""
