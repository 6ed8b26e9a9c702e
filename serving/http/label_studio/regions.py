"""Masks as regions of Label Studio: brush, polygon or rectangle, in percentages of the image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cpcsam.formats.brush_runs import encode_brush
from cpcsam.v1 import masks_pb2
from serving.http.label_studio.label_config import Control
from serving.http.label_studio.outlines import outlines_of

__all__ = ["mask_format_of", "prediction_of", "regions_of"]

ID_LENGTH: Final = 10
FORMATS: Final = {
    "brushlabels": masks_pb2.MASK_FORMAT_COCO_RLE,
    "polygonlabels": masks_pb2.MASK_FORMAT_POLYGONS,
    "rectanglelabels": masks_pb2.MASK_FORMAT_NONE,
}


def mask_format_of(control: Control) -> masks_pb2.MaskFormat:
    """Return the form in which a control's regions are made from masks."""
    return FORMATS[control.kind]


def regions_of(
    masks: Sequence[tuple[masks_pb2.Mask, str]],
    control: Control,
    size: tuple[int, int],
    seed: str = "",
) -> list[dict[str, Any]]:
    """Convert masks to `result` of a prediction; empty masks are left out.

    Args:
        masks: in the control's form, each with its label.
        control: that holds the regions.
        size: (H, W) of the image.
        seed: equal ones make equal identities, so that an answer takes the place of an earlier one
            to the same clicks; without one they are random.
    """
    height, width = size
    regions: list[dict[str, Any]] = []
    for mask, label in masks:
        if not mask.area or mask.score < control.min_score:
            continue
        for value in _values(mask, control.kind, size):
            region = {
                "id": _identity(seed, len(regions)),
                "type": control.kind,
                "from_name": control.name,
                "to_name": control.to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, control.kind: [label]},
                "score": mask.score,
            }
            regions.append(region)
    return regions


def prediction_of(regions: Sequence[dict[str, Any]], model_version: str) -> dict[str, Any]:
    """Build a prediction of a task, with the mean of the regions' scores as its own."""
    scores = [region["score"] for region in regions]
    return {
        "result": list(regions),
        "score": sum(scores) / len(scores) if scores else 0.0,
        "model_version": model_version,
    }


def _values(mask: masks_pb2.Mask, kind: str, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    height, width = size
    if kind == "brushlabels":
        yield {"format": "rle", "rle": encode_brush(_pixels(mask.coco_rle))}
    elif kind == "polygonlabels":
        for ring in outlines_of([ring.coordinates for ring in mask.polygons.rings]):
            yield {"points": (ring * 100 / (width, height)).tolist(), "closed": True}
    else:
        box = mask.box
        yield {
            "x": box.x0 * 100 / width,
            "y": box.y0 * 100 / height,
            "width": (box.x1 - box.x0) * 100 / width,
            "height": (box.y1 - box.y0) * 100 / height,
            "rotation": 0,
        }


def _pixels(rle: masks_pb2.CocoRle) -> NDArray[np.bool_]:
    record = {"size": [rle.size.height, rle.size.width], "counts": rle.counts}
    decoded: NDArray[np.uint8] = coco_mask.decode(record)
    return decoded.astype(bool)


def _identity(seed: str, index: int) -> str:
    name = f"{seed} {index}" if seed else uuid4().hex
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:ID_LENGTH]
