"""The gateway's answer, from the run lengths and scores that Triton returns."""

from __future__ import annotations

from pycocotools import mask as coco_mask

from cpcsam.contract import SEGMENT
from cpcsam.v1 import segmentation_pb2 as pb
from serving.prompting import PromptedMasks

__all__ = ["mask_message", "response_of"]


def response_of(request_id: str, image_id: str, found: PromptedMasks) -> pb.SegmentResponse:
    """Put the answers of all chunks together, in order; the timings stay empty.

    Args:
        request_id: of the request.
        image_id: of its image.
        found: the masks.
    """
    return pb.SegmentResponse(
        request_id=request_id,
        image_id=image_id,
        cached=found.cached,
        original_size=_size(found.size),
        results=[
            pb.PromptResult(
                masks=[
                    mask_message(mask_counts, float(score), found.size)
                    for mask_counts, score in zip(counts, scores, strict=True)
                ]
            )
            for chunk in found.chunks
            for counts, scores in zip(chunk.counts, chunk.scores, strict=True)
        ],
        model_name=SEGMENT.name,
        model_version=found.chunks[0].model_version,
    )


def mask_message(counts: bytes, score: float, original_size: tuple[int, int]) -> pb.Mask:
    """One mask with its box (XYXY, zero where it is empty) and area, read off the run lengths."""
    rle = {"size": list(original_size), "counts": counts}
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return pb.Mask(
        coco_rle=pb.CocoRle(size=_size(original_size), counts=counts.decode("ascii")),
        score=score,
        box=pb.Box(x0=x, y0=y, x1=x + width, y1=y + height),
        area=int(coco_mask.area(rle)),
    )


def _size(original_size: tuple[int, int]) -> pb.Size:
    return pb.Size(height=original_size[0], width=original_size[1])
