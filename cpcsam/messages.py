"""Between what the clients' callers give and get, and the messages of the API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from cpcsam.contract import MaskSelection, PointLabel
from cpcsam.errors import ContractError
from cpcsam.image_file import encode_image
from cpcsam.prompt import Prompt
from cpcsam.questions import ClassSearch, Example
from cpcsam.results import ClassInfo, Description, ImageId, Mask, SegmentResult
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = [
    "add_class_request",
    "classes_of",
    "description_of",
    "result_of",
    "segment_request",
]


def segment_request(
    prompts: Sequence[Prompt] = (),
    *,
    classes: Sequence[str] = (),
    class_search: ClassSearch | None = None,
    mask_selection: MaskSelection = MaskSelection.SINGLE,
    request_id: str = "",
) -> pb.SegmentRequest:
    """A request without its image; the arguments are those of `SegmentationClient.segment`.

    Raises:
        ContractError: `classes` is one string.
    """
    if isinstance(classes, str):
        raise ContractError.of(
            "classes", got=repr(classes), expected="a sequence of names", fix="put it in a list"
        )
    request = pb.SegmentRequest(
        request_id=request_id,
        prompts=[_prompt_message(prompt) for prompt in prompts],
        mask_selection=pb.MaskSelection.Name(mask_selection.value),
        classes=classes,
    )
    if class_search is not None:
        request.class_search.CopyFrom(pb.ClassSearch(**class_search.given()))
    return request


def result_of(response: pb.SegmentResponse, prompts: Sequence[Prompt]) -> SegmentResult:
    """The answer as callers get it.

    Args:
        response: the answer.
        prompts: that were asked; where entities were found instead, their clicks take this place.
    """
    found = [result.found_at for result in response.results if result.HasField("found_at")]
    return SegmentResult(
        request_id=response.request_id,
        original_size=(response.original_size.height, response.original_size.width),
        prompts=tuple(prompts) or tuple(Prompt.click(point.x, point.y) for point in found),
        masks=tuple(tuple(map(_mask, result.masks)) for result in response.results),
        model_name=response.model_name,
        model_version=response.model_version,
        timings_ms={
            "validate": response.timings.validate_ms,
            "triton": response.timings.triton_ms,
            "total": response.timings.total_ms,
        },
        image_id=ImageId(response.image_id),
        cached=response.cached,
    )


def description_of(response: pb.DescribeResponse) -> Description:
    """What a server says of itself."""
    limits = response.limits
    return Description(
        model_name=response.model.name,
        model_version=response.model.version,
        model_size=response.model.size,
        image_size=response.model.image_size,
        limits={
            name: getattr(limits, name)
            for name in limits.DESCRIPTOR.fields_by_name
            if name != "image_formats"
        },
        image_formats=tuple(limits.image_formats),
        gateway_version=response.gateway_version,
        triton_version=response.triton_version,
        classes=tuple(response.classes),
    )


def add_class_request(name: str, examples: Sequence[Example], tile_size: int) -> pb.AddClassRequest:
    """A request to teach a class; the arguments are those of `SegmentationClient.add_class`.

    Raises:
        ContractError: an image or its annotation cannot be sent.
    """
    return pb.AddClassRequest(
        name=name, examples=[_example(example) for example in examples], tile_size=tile_size
    )


def classes_of(response: pb.ListClassesResponse) -> tuple[ClassInfo, ...]:
    """The classes that a server lists."""
    return tuple(ClassInfo(known.name, known.prototypes) for known in response.classes)


def _example(example: Example) -> pb.Example:
    height, width = example.instances.shape
    labels = np.unique(example.instances)
    masks = [example.instances == label for label in labels if label]
    return pb.Example(
        image_bytes=encode_image(example.image),
        entities=[
            pb.CocoRle(
                size=pb.Size(height=height, width=width),
                counts=coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))["counts"].decode(),
            )
            for mask in masks
        ],
    )


def _prompt_message(prompt: Prompt) -> pb.Prompt:
    points = [
        pb.Point(x=x, y=y, background=label == PointLabel.BACKGROUND)
        for (x, y), label in zip(prompt.point_coords, prompt.point_labels, strict=True)
    ]
    if prompt.box is None:
        return pb.Prompt(points=points)
    x0, y0, x1, y1 = prompt.box
    return pb.Prompt(points=points, box=pb.Box(x0=x0, y0=y0, x1=x1, y1=y1))


def _mask(message: pb.Mask) -> Mask:
    rle, box = message.coco_rle, message.box
    return Mask(
        size=(rle.size.height, rle.size.width),
        counts=rle.counts,
        score=message.score,
        box=(box.x0, box.y0, box.x1, box.y1),
        area=message.area,
        label=message.label,
    )
