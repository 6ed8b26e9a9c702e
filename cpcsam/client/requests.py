"""Requests of the client, as plain values: images, prompts, search parameters and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpcsam.client.images import ImageLike
from cpcsam.client.masks import MaskFormat
from cpcsam.client.prompts import Prompt
from cpcsam.contract import MaskSelection
from cpcsam.errors import ContractError
from cpcsam.images.options import ReadOptions

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ClassSearch", "Everything", "Example", "Question", "SegmentRequest"]


class _Settings:
    """Parameters that default to the server's values when None."""

    def set_values(self) -> dict[str, Any]:
        """Return the parameters that are not None, by name."""
        values = asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def of_message(cls, message: Any) -> Self:
        """Build from the fields that are set in a message of the API."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: getattr(message, name) for name in names if message.HasField(name)})


@dataclass(frozen=True)
class ClassSearch(_Settings):
    """Thresholds of the class search; None takes the server's default.

    Attributes:
        threshold: minimum class probability at a proposed point prompt, 0 to 1.
        min_similarity: minimum mean class probability under a mask, 0 to 1.
        min_iou: minimum predicted IoU of a mask, 0 to 1.
        overlap: of neighbouring tiles, as a fraction of their side in [0, 1).
    """

    threshold: float | None = None
    min_similarity: float | None = None
    min_iou: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class Everything(_Settings):
    """Parameters of SAM's automatic mask generator; None takes the server's default.

    The name of each parameter in segment-anything stands in parentheses.

    Attributes:
        points_per_side: points along each side of the grid (`points_per_side`).
        min_iou: masks with a predicted IoU up to this are dropped, 0 to 1 (`pred_iou_thresh`).
        min_stability: masks with a lower stability score are dropped, 0 to 1
            (`stability_score_thresh`).
        stability_offset: shift of the logit threshold for the stability score
            (`stability_score_offset`).
        max_box_iou: box IoU above which NMS drops the worse of two masks, 0 to 1
            (`box_nms_thresh`).
        crop_layers: layers of crops segmented in addition to the whole image; layer i has (2^i)^2
            crops (`crop_n_layers`).
        crop_overlap: of crops, as a fraction of the image's shorter side in [0, 1)
            (`crop_overlap_ratio`).
        crop_points_divisor: layer i has points_per_side / crop_points_divisor^i points per side
            (`crop_n_points_downscale_factor`).
        max_crop_box_iou: as max_box_iou, for masks of different crops (`crop_nms_thresh`).
        min_area: minimum number of pixels of a mask.
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
class SegmentRequest:
    """Request to segment an image: by prompts, by class names, or everything in it.

    Attributes:
        image: (H, W, 3) uint8 RGB array, Pillow image, bytes or path of an image file, or the
            `image_id` of an earlier result. Arrays and Pillow images are sent as PNG; encode them
            once with `encode_image` when they are segmented repeatedly.
        prompts: one per entity.
        classes: instead of prompts, names of classes that the server knows.
        class_search: thresholds of the class search, for `classes`.
        everything: instead of both, parameters of the automatic mask generator; `Everything()`
            takes the server's defaults.
        mask_selection: masks returned per prompt: the single mask, the best of three, or all.
        mask_format: encoding of the returned masks.
        low_res_masks: whether to return mask logits, for use as a `mask_input`; for prompts only.
        tile_size: side of the overlapping tiles that a large image is split into, in pixels; 0
            uses the whole image, None the model's own window (`Description.window`). Classes have
            the tile size that they were added with.
        tile_overlap: of neighbouring tiles, as a fraction of their side in [0, 1); None takes the
            server's default.
        request_id: appears in the result and in the gateway's log.
        read_options: page, channels and intensity of the image file; None leaves them to the file
            and the model.
        calibrate: False takes the prompts as they are given, if the model calibrates them
            (`Description.calibrates`); for prompts only.

    Raises:
        ContractError: `classes` is a single string.
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
    tile_size: int | None = None
    tile_overlap: float | None = None
    request_id: str = ""
    read_options: ReadOptions | None = None
    calibrate: bool = True

    def __post_init__(self) -> None:
        """Reject a string, which is a sequence of names as well."""
        if isinstance(self.classes, str):
            raise ContractError.of(
                "classes",
                got=repr(self.classes),
                expected="a sequence of names",
                fix="put it in a list",
            )


Question = SegmentRequest
"""Alias of `SegmentRequest`."""


@dataclass(frozen=True)
class Example:
    """Annotated image, a few of which define a class.

    Attributes:
        image: as of `SegmentationClient.segment`, but not an ImageId.
        instances: (H, W) integer label image of the upright image's size: 0 for background, a
            distinct number for each entity.
        read_options: as of `SegmentRequest`.

    Raises:
        ContractError: `instances` is not a label image.
    """

    image: ImageLike
    instances: NDArray[Any]
    read_options: ReadOptions | None = None

    def __post_init__(self) -> None:
        """Validate shape and dtype of the label image."""
        if self.instances.ndim != 2 or not np.issubdtype(self.instances.dtype, np.integer):
            raise ContractError.of(
                "instances",
                got=f"shape {self.instances.shape} of {self.instances.dtype}",
                expected="(H, W) of integers",
                fix="give a label image, or masks to Example.of_masks",
            )
        if self.instances.min(initial=0) < 0:
            raise ContractError.of(
                "instances",
                got=f"the value {self.instances.min()}",
                expected="0 for background and a number above it for each entity",
                fix="give background the value 0",
            )

    @classmethod
    def of_masks(cls, image: ImageLike, masks: Sequence[NDArray[np.bool_]]) -> Example:
        """Build from a mask per entity; where masks overlap, the later one wins.

        Args:
            image: as of `Example`.
            masks: (H, W) bool, one per entity.

        Raises:
            ContractError: no mask, or masks of different sizes.
        """
        if len({mask.shape for mask in masks}) != 1:
            raise ContractError.of(
                "masks",
                got=", ".join(str(mask.shape) for mask in masks) or "none",
                expected="masks of the image's size",
                fix="give one mask per entity",
            )
        instances = np.zeros(masks[0].shape, np.int32)
        for label, mask in enumerate(masks, start=1):
            instances[np.asarray(mask, bool)] = label
        return cls(image, instances)
