"""What callers of a client may ask beside prompts, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ContractError
from cpcsam.image_file import ImageLike

__all__ = ["ClassSearch", "Example"]


@dataclass(frozen=True)
class ClassSearch:
    """How entities of classes are looked for; None leaves it to the server.

    Attributes:
        threshold: least probability of the class at a place that is looked at, 0 to 1.
        min_similarity: least mean probability of the class under a mask, 0 to 1.
        min_iou: least predicted IoU of a mask, 0 to 1.
        overlap: of neighbouring tiles, as a part of their side, 0 to below 1.
    """

    threshold: float | None = None
    min_similarity: float | None = None
    min_iou: float | None = None
    overlap: float | None = None

    def given(self) -> dict[str, float]:
        """What is not left to the server."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Example:
    """An annotated image that teaches a class.

    Attributes:
        image: as for `SegmentationClient.segment`, but no ImageId.
        instances: (H, W) integers, 0 for background and a number of its own for each entity, of the
            upright image's size.

    Raises:
        ContractError: no such label image.
    """

    image: ImageLike
    instances: NDArray[Any]

    def __post_init__(self) -> None:
        """Refuse what is no label image."""
        if self.instances.ndim != 2 or not np.issubdtype(self.instances.dtype, np.integer):
            raise ContractError.of(
                "instances",
                got=f"shape {self.instances.shape} of {self.instances.dtype}",
                expected="(H, W) of integers",
                fix="give a label image, or masks to Example.of_masks",
            )

    @classmethod
    def of_masks(cls, image: ImageLike, masks: Sequence[NDArray[np.bool_]]) -> Example:
        """Example of one (H, W) mask for each entity; where they overlap, later ones lie on top.

        Raises:
            ContractError: no mask, or masks of different sizes.
        """
        if len({mask.shape for mask in masks}) != 1:
            raise ContractError.of(
                "masks",
                got=", ".join(str(mask.shape) for mask in masks) or "none",
                expected="masks of the image's size",
                fix="give one for each entity",
            )
        instances = np.zeros(masks[0].shape, np.int32)
        for label, mask in enumerate(masks, start=1):
            instances[np.asarray(mask, bool)] = label
        return cls(image, instances)
