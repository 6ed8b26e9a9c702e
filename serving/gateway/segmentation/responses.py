"""Response messages of the gateway, from instance masks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.errors import CpcSamError
from cpcsam.geometry import Box
from cpcsam.polygons import rings_of
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.error_details import status_message
from serving.gateway.scheduling.executors import stop_if_abandoned
from serving.gateway.segmentation.by_prompts import PromptedMasks, PromptMasks

__all__ = ["instances_response", "mask_message", "prompted_response", "stream_response"]

FORMATS = pb.MaskFormat


def prompted_response(
    prompted: PromptedMasks,
    prompts: Sequence[pb.Prompt],
    size: tuple[int, int],
    form: pb.MaskFormat,
) -> pb.SegmentResponse:
    """Build the response to prompts: one result a prompt, in order.

    Args:
        prompted: the masks of all prompts.
        prompts: of the request.
        size: (H, W) of the image.
        form: encoding of the masks.
    """
    return pb.SegmentResponse(
        cached=prompted.cached,
        original_size=_size(size),
        results=[
            _result(masks, prompt, size, form)
            for masks, prompt in zip(prompted.prompts, prompts, strict=True)
        ],
    )


def instances_response(
    instances: Iterable[InstanceMask],
    names: Sequence[str],
    size: tuple[int, int],
    cached: bool,
    form: pb.MaskFormat,
) -> pb.SegmentResponse:
    """Build the response to a search: one result an entity, in order.

    Args:
        instances: the masks.
        names: of the classes, by their index.
        size: (H, W) of the image.
        cached: whether every embedding came from the cache.
        form: encoding of the masks.
    """
    response = pb.SegmentResponse(cached=cached, original_size=_size(size))
    for instance in instances:
        message = mask_message(instance, size, form)
        message.label = names[instance.class_index]
        x, y = instance.point
        response.results.add(masks=[message], found_at=pb.Point(x=x, y=y))
    return response


def stream_response(
    request_id: str, outcome: pb.SegmentResponse | CpcSamError
) -> pb.SegmentStreamResponse:
    """Build the response to one request of a stream, or the status that gRPC would return."""
    if not isinstance(outcome, CpcSamError):
        return pb.SegmentStreamResponse(request_id=request_id, response=outcome)
    status = status_message(outcome)
    failure = pb.Failure(
        code=status.code, message=status.message, details=status.SerializeToString()
    )
    return pb.SegmentStreamResponse(request_id=request_id, failure=failure)


def mask_message(mask: InstanceMask, size: tuple[int, int], form: pb.MaskFormat) -> pb.Mask:
    """Build the message of one mask.

    Args:
        mask: in the image.
        size: (H, W) of the image.
        form: encoding of the mask.
    """
    stop_if_abandoned()
    message = pb.Mask(
        box=_box(mask.bbox), area=mask.area, score=mask.score, stability=mask.stability
    )
    if form == FORMATS.MASK_FORMAT_COCO_RLE:
        counts = mask.rle(size).decode("ascii")
        message.coco_rle.CopyFrom(pb.CocoRle(size=_size(size), counts=counts))
    elif form == FORMATS.MASK_FORMAT_PNG:
        file = io.BytesIO()
        Image.fromarray(mask.in_region(Box(0, 0, *size))).save(file, "PNG")
        message.png = file.getvalue()
    elif form == FORMATS.MASK_FORMAT_POLYGONS:
        message.polygons.SetInParent()
        for ring in rings_of(mask.mask):
            corners = np.array(ring) + (mask.bbox.left, mask.bbox.top)
            message.polygons.rings.add(coordinates=corners.ravel().tolist())
    return message


def _result(
    prompted: PromptMasks, prompt: pb.Prompt, size: tuple[int, int], form: pb.MaskFormat
) -> pb.PromptResult:
    result = pb.PromptResult()
    if prompted.point_coords is not None:
        result.calibrated_prompt.CopyFrom(_calibrated(prompt, prompted.point_coords))
    for index, mask in enumerate(prompted.masks):
        message = mask_message(mask, size, form)
        if prompted.low_res_masks is not None:
            message.low_res_mask.logits = prompted.low_res_masks[index].astype("<f4").tobytes()
            if mask.tile.size != size:
                message.low_res_mask.part.CopyFrom(_box(mask.tile))
        result.masks.append(message)
    return result


def _calibrated(prompt: pb.Prompt, point_coords: NDArray[np.float32]) -> pb.Prompt:
    """Return a prompt with its points and then the corners of its box at the first coordinates."""
    places = point_coords.tolist()
    calibrated = pb.Prompt(
        points=[
            pb.Point(x=x, y=y, background=point.background)
            for point, (x, y) in zip(prompt.points, places, strict=False)
        ]
    )
    if prompt.HasField("box"):
        (x0, y0), (x1, y1) = places[len(prompt.points) : len(prompt.points) + 2]
        calibrated.box.CopyFrom(pb.Box(x0=x0, y0=y0, x1=x1, y1=y1))
    return calibrated


def _box(box: Box) -> pb.Box:
    return pb.Box(x0=box.left, y0=box.top, x1=box.right, y1=box.bottom)


def _size(size: tuple[int, int]) -> pb.Size:
    return pb.Size(height=size[0], width=size[1])
