"""Images with their masks, as every format's writer takes them and its reader returns them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import extra
from cpcsam.formats import UNNAMED
from cpcsam.geometry import Box
from cpcsam.images.options import ReadOptions

with extra("client"):
    from cpcsam.automatic.instance_mask import bbox_from_mask, paste_crop
    from cpcsam.automatic.rle import mask_from_rle, rle_from_crop, rle_from_mask

__all__ = ["Format", "ImageRecord", "ListedImage", "Losses", "MaskRecord", "number_of"]


def number_of(value: object) -> float | None:
    """Return a score as a file has it; None if it is no finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # JSON cannot hold the others, though Python writes them.
    return number if math.isfinite(number) else None


Losses = Counter[str]
"""What a format cannot hold, counted: masks or pixels by a phrase that names them."""


@dataclass(frozen=True)
class MaskRecord:
    """Mask of an entity, as run lengths within its bounding box.

    Attributes:
        box: smallest box around the mask; `EMPTY_BOX` if it is empty.
        counts: COCO compressed run lengths of the mask within the box.
        label: name of its class.
        score: predicted IoU, 0 to 1; None if the format does not tell.
        stability: stability score, 0 to 1; None likewise.
        prompt_index: index of its prompt, from 0; None likewise.
        prompt: `point_coords`, `point_labels` and `box` in pixels, as in COCO; None likewise.
    """

    box: Box
    counts: bytes
    label: str = UNNAMED
    score: float | None = None
    stability: float | None = None
    prompt_index: int | None = None
    prompt: Mapping[str, Any] | None = None

    @classmethod
    def of_mask(
        cls, mask: NDArray[np.bool_], origin: tuple[int, int] = (0, 0), **rest: Any
    ) -> MaskRecord:
        """Encode a mask.

        Args:
            mask: (h, w) bool, the image or a part of it.
            origin: row and column of the part in the image.
            rest: the other attributes.
        """
        box = bbox_from_mask(mask)
        crop = np.ascontiguousarray(box.crop(mask))
        counts = rle_from_mask(crop) if crop.size else b""
        return cls(box.translate(*origin) if crop.size else box, counts, **rest)

    @property
    def crop(self) -> NDArray[np.bool_]:
        """The mask within its box, (h, w) bool; decoded at each access."""
        if not self.counts:
            return np.zeros(self.box.size, bool)
        return mask_from_rle(self.counts, self.box.size)

    def array(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask in its image, (H, W) bool of the given size."""
        return paste_crop(self.crop, self.box, Box(0, 0, *size))

    def rle(self, size: tuple[int, int]) -> bytes:
        """Return COCO compressed run lengths of the mask in an image of size (H, W)."""
        return rle_from_crop(self.crop, self.box, size)


@dataclass(frozen=True)
class ImageRecord:
    """An image and its masks.

    Attributes:
        file_name: POSIX path relative to the common folder of the images.
        name: the same without its suffix, unless another image differs by the suffix alone.
        size: (H, W).
        masks: in their order.
        path: the image file, where it is at hand; formats that hold images copy it.
        model: name and version of the model.
        options: page, channels and intensity with which the image file was read.
    """

    file_name: str
    name: str
    size: tuple[int, int]
    masks: Sequence[MaskRecord]
    path: Path | None = None
    model: str = ""
    options: ReadOptions | None = None


@dataclass(frozen=True)
class ListedImage:
    """An image of a file or folder in a format, whose masks are decoded on demand.

    Attributes:
        file_name: as the format names the image, or its stem if the format names none.
        classes: of the annotations, one each.
        decode: returns the masks, given the image's size (H, W); can be pickled. Raises DataError
            for annotations that are damaged.
        sources: the files it is read from.
        size: (H, W); None if the format does not tell.
        left_out: annotations that are no masks, counted by kind.
        is_annotated: False where nobody has said what the image shows, not even that it is nothing.
    """

    file_name: str
    classes: tuple[str, ...]
    decode: Callable[[tuple[int, int]], Iterable[MaskRecord]]
    sources: tuple[Path, ...]
    size: tuple[int, int] | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    is_annotated: bool = True


class Format(Protocol):
    """Writer and reader of a format; each module of the package is one."""

    def write(self, images: Iterable[ImageRecord], folder: Path) -> Losses:
        """Write images into a new folder.

        Args:
            images: are consumed one by one.
            folder: is empty.

        Returns:
            What the format could not hold.
        """

    def read(self, folder: Path) -> Iterator[ListedImage]:
        """List the images of a folder, or of a file where the format has one.

        Raises:
            DataError: there are none, or a file is damaged.
        """
