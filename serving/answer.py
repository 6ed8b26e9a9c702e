"""The gateway's answers, from run lengths, scores and masks."""

from __future__ import annotations

from collections.abc import Sequence

from pycocotools import mask as coco_mask

from cpcsam.merging import FoundMask
from cpcsam.v1 import segmentation_pb2 as pb
from serving.prompting import PromptedMasks
from serving.run_lengths import rle_of_part

__all__ = ["found_response", "mask_message", "prompted_response"]


def prompted_response(found: PromptedMasks, size: tuple[int, int]) -> pb.SegmentResponse:
    """Put the answers of all chunks together, in order.

    Args:
        found: the masks of prompts.
        size: (H, W) of the image.
    """
    return pb.SegmentResponse(
        cached=found.cached,
        original_size=_size(size),
        results=[
            pb.PromptResult(
                masks=[
                    mask_message(mask_counts, float(score), size)
                    for mask_counts, score in zip(counts, scores, strict=True)
                ]
            )
            for chunk in found.chunks
            for counts, scores in zip(chunk.counts, chunk.scores, strict=True)
        ],
    )


def found_response(
    found: Sequence[FoundMask], names: Sequence[str], size: tuple[int, int], cached: bool
) -> pb.SegmentResponse:
    """One result for each entity that was found.

    Args:
        found: the masks, in order.
        names: of the classes, by their index.
        size: (H, W) of the image.
        cached: whether nothing had to be encoded.
    """
    response = pb.SegmentResponse(cached=cached, original_size=_size(size))
    for one in found:
        message = mask_message(rle_of_part(one.mask, one.area, size), one.score, size)
        message.label = names[one.class_index]
        x, y = one.click
        response.results.add(masks=[message], found_at=pb.Point(x=x, y=y))
    return response


def mask_message(counts: bytes, score: float, size: tuple[int, int]) -> pb.Mask:
    """One mask with its box (XYXY, zero where it is empty) and area, read off the run lengths."""
    rle = {"size": list(size), "counts": counts}
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return pb.Mask(
        coco_rle=pb.CocoRle(size=_size(size), counts=counts.decode("ascii")),
        score=score,
        box=pb.Box(x0=x, y0=y, x1=x + width, y1=y + height),
        area=int(coco_mask.area(rle)),
    )


def _size(size: tuple[int, int]) -> pb.Size:
    return pb.Size(height=size[0], width=size[1])
