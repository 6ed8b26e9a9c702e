"""What callers of a client may ask, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cpcsam.client.images import ImageLike
from cpcsam.client.masks import MaskFormat
from cpcsam.client.prompts import Prompt
from cpcsam.contract import MaskSelection
from cpcsam.errors import ContractError

__all__ = ["ClassSearch", "Everything", "Example", "Question"]


class _Settings:
    """Values of which those that are None are left to the server."""

    def given(self) -> dict[str, Any]:
        """What is not left to the server."""
        values = asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def of_message(cls, message: Any) -> Self:
        """The values that a message of the API gives."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: getattr(message, name) for name in names if message.HasField(name)})


@dataclass(frozen=True)
class ClassSearch(_Settings):
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


@dataclass(frozen=True)
class Everything(_Settings):
    """How everything is found, as by SAM's automatic mask generator; None leaves it to the server.

    Attributes:
        points_per_side: clicks along each side of the grid.
        min_iou: masks with a predicted IoU up to this are dropped, 0 to 1.
        min_stability: masks with a lower stability are dropped, 0 to 1.
        stability_offset: by which the threshold moves up and down to tell the stability.
        max_box_iou: of two masks whose boxes have a larger IoU, only the better one stays, 0 to 1.
        crop_layers: of crops that are looked at beside the whole image: layer i has (2^i)^2.
        crop_overlap: of crops, as a part of the image's shorter side, 0 to below 1.
        crop_points_divisor: layer i has points_per_side / crop_points_divisor^i clicks a side.
        max_crop_box_iou: as max_box_iou, for masks of different crops.
        min_area: least pixels of a mask.
    """

    points_per_side: int | None = None
    min_iou: float | None = None
    min_stability: float | None = None
    stability_offset: float | None = None
    max_box_iou: float | None = None
    crop_layers: int | None = None
    crop_overlap: float | None = None
    crop_points_divisor: int | None = None
    max_crop_box_iou: float | None = None
    min_area: int | None = None


@dataclass(frozen=True)
class Question:
    """What to segment in one image: what prompts point at, entities of classes, or everything.

    Attributes:
        image: an array and a Pillow image are sent as PNG, bytes and files as they are. To ask
            about an array again and again, encode it once with `encode_image`.
        prompts: one for each entity.
        classes: instead of prompts, names of classes that the server knows.
        class_search: how their entities are looked for.
        everything: instead of both, everything that a grid of clicks hits; `Everything()` leaves
            it to the server how.
        mask_selection: which masks answer a prompt.
        mask_format: in which form they come.
        low_res_masks: whether to bring logits as well, for further prompts; for prompts alone.
        tile_size: side of the overlapping tiles in which a large image is looked at, in pixels; 0
            looks at the whole image. Classes have the one that they were taught with.
        tile_overlap: of neighbouring tiles, as a part of their side, 0 to below 1; None leaves it
            to the server.
        request_id: appears in the answer and in the gateway's log.

    Raises:
        ContractError: `classes` is one string.
    """

    image: ImageLike
    prompts: Sequence[Prompt] = ()
    _: KW_ONLY
    classes: Sequence[str] = ()
    class_search: ClassSearch | None = None
    everything: Everything | None = None
    mask_selection: MaskSelection = MaskSelection.SINGLE
    mask_format: MaskFormat = MaskFormat.COCO_RLE
    low_res_masks: bool = False
    tile_size: int = 0
    tile_overlap: float | None = None
    request_id: str = ""

    def __post_init__(self) -> None:
        """Refuse a string, which is a sequence of names too."""
        if isinstance(self.classes, str):
            raise ContractError.of(
                "classes",
                got=repr(self.classes),
                expected="a sequence of names",
                fix="put it in a list",
            )


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
