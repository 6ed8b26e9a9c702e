"""The gateway's answers, from run lengths, scores and masks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from cpcsam.automatic.mask_merging import FoundMask
from cpcsam.automatic.rle import area_of_rle, mask_from_rle, pixels_of_rle, rle_of_part
from cpcsam.automatic.tiling import Tile
from cpcsam.errors import CpcSamError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.error_details import status_message
from serving.gateway.segmentation.by_prompts import PromptedMasks, PromptMasks
from serving.gateway.segmentation.polygons import rings_of

__all__ = ["found_response", "mask_message", "prompted_response", "stream_response"]

FORMATS = pb.MaskFormat


def prompted_response(
    found: PromptedMasks, size: tuple[int, int], form: pb.MaskFormat
) -> pb.SegmentResponse:
    """One result for each prompt, in order.

    Args:
        found: the masks of prompts.
        size: (H, W) of the image.
        form: in which masks are wanted.
    """
    return pb.SegmentResponse(
        cached=found.cached,
        original_size=_size(size),
        results=[_result(one, size, form) for one in found.prompts],
    )


def found_response(
    found: Iterable[FoundMask],
    names: Sequence[str],
    size: tuple[int, int],
    cached: bool,
    form: pb.MaskFormat,
) -> pb.SegmentResponse:
    """One result for each entity that was found.

    Args:
        found: the masks, in order.
        names: of the classes, by their index.
        size: (H, W) of the image.
        cached: whether nothing had to be encoded.
        form: in which masks are wanted.
    """
    response = pb.SegmentResponse(cached=cached, original_size=_size(size))
    for one in found:
        message = mask_message(rle_of_part(one.mask, one.area, size), size, form)
        message.score, message.stability = one.score, one.stability
        message.label = names[one.class_index]
        x, y = one.click
        response.results.add(masks=[message], found_at=pb.Point(x=x, y=y))
    return response


def stream_response(
    request_id: str, outcome: pb.SegmentResponse | CpcSamError
) -> pb.SegmentStreamResponse:
    """The answer to one request of a stream, or what gRPC would tell of its failure."""
    if not isinstance(outcome, CpcSamError):
        return pb.SegmentStreamResponse(request_id=request_id, response=outcome)
    status = status_message(outcome)
    failure = pb.Failure(
        code=status.code, message=status.message, details=status.SerializeToString()
    )
    return pb.SegmentStreamResponse(request_id=request_id, failure=failure)


def mask_message(counts: bytes, size: tuple[int, int], form: pb.MaskFormat) -> pb.Mask:
    """One mask with what can be read off its run lengths: box and area.

    Args:
        counts: COCO run lengths.
        size: (H, W) of the image.
        form: in which the mask is wanted.
    """
    area = area_of_rle(counts, size)
    message = pb.Mask(box=pb.Box() if area is None else _box(area))
    message.area = pixels_of_rle(counts, size)
    if form == FORMATS.MASK_FORMAT_COCO_RLE:
        message.coco_rle.CopyFrom(pb.CocoRle(size=_size(size), counts=counts.decode("ascii")))
    elif form == FORMATS.MASK_FORMAT_PNG:
        file = io.BytesIO()
        Image.fromarray(mask_from_rle(counts, size)).save(file, "PNG")
        message.png = file.getvalue()
    elif form == FORMATS.MASK_FORMAT_POLYGONS:
        message.polygons.SetInParent()
        if area is not None:
            for ring in rings_of(area.cut(mask_from_rle(counts, size))):
                corners = np.array(ring) + (area.left, area.top)
                message.polygons.rings.add(coordinates=corners.ravel().tolist())
    return message


def _result(masks: PromptMasks, size: tuple[int, int], form: pb.MaskFormat) -> pb.PromptResult:
    result = pb.PromptResult()
    for index, counts in enumerate(masks.counts):
        message = mask_message(counts, size, form)
        message.score, message.stability = masks.scores[index], masks.stability[index]
        if masks.low_res_masks is not None:
            message.low_res_mask.logits = masks.low_res_masks[index].astype("<f4").tobytes()
            if masks.part.size != size:
                message.low_res_mask.part.CopyFrom(_box(masks.part))
        result.masks.append(message)
    return result


def _box(area: Tile) -> pb.Box:
    return pb.Box(x0=area.left, y0=area.top, x1=area.right, y1=area.bottom)


def _size(size: tuple[int, int]) -> pb.Size:
    return pb.Size(height=size[0], width=size[1])
