"""Masks as the client's callers see them, and their JSON form.

Boxes are XYXY, in pixels of the original image; sizes are (H, W).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cpcsam.prompt import XYXY, Prompt

__all__ = ["ClassInfo", "Description", "ImageId", "Mask", "SegmentResult", "coco_annotations"]


class ImageId(str):
    """Names an image that the server has seen: the SHA-256 of its file, in hexadecimal."""


@dataclass(frozen=True)
class Mask:
    """One mask of a prompt.

    Attributes:
        size: (H, W) of the original image.
        counts: COCO compressed run lengths.
        score: predicted IoU with the entity.
        box: XYXY, the smallest box that holds the mask; all zero for an empty mask.
        area: pixels in the mask.
        label: name of the class, where classes were asked for.
    """

    size: tuple[int, int]
    counts: str
    score: float
    box: XYXY
    area: int
    label: str = ""

    @cached_property
    def array(self) -> NDArray[np.bool_]:
        """The mask, (H, W) bool; decoded at the first use and then kept."""
        decoded: NDArray[np.uint8] = coco_mask.decode(self.rle)
        return decoded.astype(bool)

    @property
    def rle(self) -> dict[str, Any]:
        """The mask as `pycocotools.mask` and COCO's JSON spell it."""
        return {"size": list(self.size), "counts": self.counts}


@dataclass(frozen=True)
class SegmentResult:
    """The answer to one request.

    Attributes:
        request_id: as given with the request.
        original_size: (H, W) of the image.
        prompts: the prompts asked; where entities were found instead, a click on each.
        masks: for each prompt its masks: one, or three for `MaskSelection.ALL`.
        model_name: the serving entry point that answered.
        model_version: its version.
        timings_ms: milliseconds in the gateway by stage: `validate`, `triton`, `total`.
        image_id: names the image in further requests.
        cached: whether the server knew the image, so that it had to encode nothing.
    """

    request_id: str
    original_size: tuple[int, int]
    prompts: tuple[Prompt, ...]
    masks: tuple[tuple[Mask, ...], ...]
    model_name: str
    model_version: str
    timings_ms: dict[str, float]
    image_id: ImageId = ImageId("")
    cached: bool = False


@dataclass(frozen=True)
class ClassInfo:
    """A class that a server knows.

    Attributes:
        name: of the class.
        prototypes: by so many it is known.
    """

    name: str
    prototypes: int


@dataclass(frozen=True)
class Description:
    """What a server says of itself.

    Attributes:
        model_name: the serving entry point.
        model_version: the version of it that answers.
        model_size: `vit_t`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the square that images are resized into, in pixels.
        limits: name of each numeric limit and its value, such as `max_prompts`.
        image_formats: names of the accepted encodings.
        gateway_version: version of the gateway.
        triton_version: version of the Triton server behind it.
        classes: names of the caller's classes.
    """

    model_name: str
    model_version: str
    model_size: str
    image_size: int
    limits: dict[str, int]
    image_formats: tuple[str, ...]
    gateway_version: str
    triton_version: str
    classes: tuple[str, ...]


def coco_annotations(result: SegmentResult) -> list[dict[str, Any]]:
    """List the masks as COCO annotations, ready for JSON.

    Each has `id` (from 1), `segmentation` (`size` and `counts`), `bbox` (XYWH, as COCO has it),
    `area`, `score`, `prompt_index` (from 0) and `prompt` (`point_coords`, `point_labels`, `box`).
    """
    return [
        {
            "id": number,
            "segmentation": mask.rle,
            "bbox": _xywh(mask.box),
            "area": mask.area,
            "score": mask.score,
            "prompt_index": index,
            "prompt": {
                "point_coords": [list(point) for point in prompt.point_coords],
                "point_labels": list(prompt.point_labels),
                "box": None if prompt.box is None else list(prompt.box),
            },
        }
        for number, (index, prompt, mask) in enumerate(_flat(result), start=1)
    ]


def _flat(result: SegmentResult) -> Iterable[tuple[int, Prompt, Mask]]:
    for index, (prompt, masks) in enumerate(zip(result.prompts, result.masks, strict=True)):
        for mask in masks:
            yield index, prompt, mask


def _xywh(box: XYXY) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
