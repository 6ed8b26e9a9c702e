"""What an annotator has drawn with smart tools, as prompts.

Label Studio sends all clicks, boxes or strokes of one label that are not accepted yet. Coordinates
are percentages of the image's width and height.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.contract import MAX_PIXELS
from cpcsam.errors import ContractError
from cpcsam.formats.brush_runs import decode_brush
from cpcsam.v1 import masks_pb2
from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.label_studio.label_config import Label, LabelConfig
from serving.http.label_studio.records import (
    invalid,
    list_member,
    number_member,
    object_member,
    text_member,
)
from serving.http.problems import quoted

__all__ = ["Interaction", "read_interaction"]

POINT: Final = "keypointlabels"
BOX: Final = "rectanglelabels"
BRUSH: Final = "brushlabels"
MAX_REGIONS: Final = 1024
MAX_STROKE_PIXELS: Final = 16 * MAX_PIXELS
"""Pixels of all strokes together, each of which is as large as the image."""


@dataclass(frozen=True)
class Interaction:
    """Prompts of one label in one image.

    Attributes:
        to_name: name of the image in the labelling configuration.
        label: of the regions to find.
        size: (H, W) of the image as Label Studio shows it.
        seed: identity of what was drawn, from which those of the answer are made.
        prompts: in pixels; one for all clicks and strokes, or one for each box.
    """

    to_name: str
    label: str
    size: tuple[int, int]
    seed: str
    prompts: tuple[pb.Prompt, ...]


def read_interaction(drawn: Sequence[Any], config: LabelConfig) -> Interaction:
    """Read `context.result`.

    Args:
        drawn: regions as Label Studio stores them, of one image.
        config: the project's.

    Raises:
        Problem: 400, they are no prompts.
        ContractError: a stroke cannot be read.
    """
    if not 0 < len(drawn) <= MAX_REGIONS or not all(isinstance(one, dict) for one in drawn):
        raise invalid(
            "context.result", f"{len(drawn)} items", f"1 to {MAX_REGIONS} regions", "draw one"
        )
    size = _size(drawn[0])
    to_name = text_member(drawn[0], "to_name")
    points: list[masks_pb2.Point] = []
    boxes: list[masks_pb2.Box] = []
    stroke: NDArray[np.bool_] | None = None
    labels: list[str] = []
    pixels = MAX_STROKE_PIXELS
    for region in drawn:
        if _size(region) != size or text_member(region, "to_name") != to_name:
            raise invalid("context.result", "several images", "one", "draw in one of them")
        kind, value = text_member(region, "type"), object_member(region, "value")
        name = _label(value, kind)
        control = config.control(text_member(region, "from_name"))
        label = None if control is None else control.label(name)
        if kind == POINT:
            point = _point(value, size, _is_background(region, label))
            points.append(point)
            if point.background:
                continue
        elif kind == BOX:
            boxes.append(_box(value, size))
        elif kind == BRUSH:
            pixels -= size[0] * size[1]
            if pixels < 0:
                raise invalid(
                    "context.result",
                    "strokes of more pixels than can be read at once",
                    f"{MAX_STROKE_PIXELS} pixels of image in all",
                    "accept the others first",
                )
            drawn_here = _stroke(list_member(value, "rle"), size)
            stroke = drawn_here if stroke is None else np.logical_or(stroke, drawn_here, out=stroke)
        else:
            raise invalid(
                "type", quoted(kind), f"{POINT}, {BOX} or {BRUSH}", "use another smart tool"
            )
        # Controls may have aliases of their own for what annotators see.
        labels.append(name if label is None else label.shown or name)
    if not labels:
        raise invalid("clicks", "none on the entity", "one or more", "click on it first")
    seed = text_member(drawn[0], "id")
    return Interaction(to_name, labels[0], size, seed, _prompts(points, boxes, stroke))


def _prompts(
    points: Sequence[masks_pb2.Point],
    boxes: Sequence[masks_pb2.Box],
    stroke: NDArray[np.bool_] | None,
) -> tuple[pb.Prompt, ...]:
    if len(boxes) > 1:
        if points or stroke is not None:
            raise invalid(
                "context.result", "several boxes with clicks", "one box", "accept the others first"
            )
        return tuple(pb.Prompt(box=box) for box in boxes)
    prompt = pb.Prompt(points=points, box=boxes[0] if boxes else None)
    if stroke is not None:
        prompt.mask.png = _png(stroke)
    return (prompt,)


def _size(region: Mapping[str, Any]) -> tuple[int, int]:
    """Return (H, W) of a region's image."""
    width, height = (number_member(region, f"original_{name}") for name in ("width", "height"))
    is_whole = width.is_integer() and height.is_integer() and min(width, height) > 0
    if not (is_whole and width * height <= MAX_PIXELS):
        raise invalid("original_width", f"{width:g} x {height:g}", "a size in pixels", "correct it")
    if number_member(region, "image_rotation", 0.0) % 360 != 0:
        raise invalid("image_rotation", "a turned image", "0", "turn the image back")
    if number_member(region, "item_index", 0.0) != 0:
        raise invalid("item_index", "several images in a task", "one", "split the task")
    return int(height), int(width)


def _label(value: Mapping[str, Any], kind: str) -> str:
    labels = list_member(value, kind) or list_member(value, "labels")
    if not labels or not isinstance(labels[0], str):
        raise invalid("label", "none", "one for what is drawn", "choose a label first")
    return labels[0]


def _is_background(region: Mapping[str, Any], label: Label | None) -> bool:
    is_positive = region.get("is_positive")
    if is_positive is not None:
        return not is_positive
    return label is not None and label.is_negative


def _point(value: Mapping[str, Any], size: tuple[int, int], is_background: bool) -> masks_pb2.Point:
    height, width = size
    x = number_member(value, "x") * width / 100
    y = number_member(value, "y") * height / 100
    return masks_pb2.Point(x=_inside(x, width), y=_inside(y, height), background=is_background)


def _inside(place: float, side: int) -> float:
    """Move what lies on the image's border or beyond to the nearest place inside, as float32."""
    return float(np.clip(np.float32(place), 0, np.nextafter(np.float32(side), np.float32(0))))


def _box(value: Mapping[str, Any], size: tuple[int, int]) -> masks_pb2.Box:
    """Return the box of a rectangle, which may be turned about its top left corner."""
    height, width = size
    x, y = number_member(value, "x") * width / 100, number_member(value, "y") * height / 100
    across = number_member(value, "width") * width / 100
    down = number_member(value, "height") * height / 100
    turn = math.radians(number_member(value, "rotation", 0.0))
    sine, cosine = math.sin(turn), math.cos(turn)
    xs = [x + a * across * cosine - d * down * sine for a in (0, 1) for d in (0, 1)]
    ys = [y + a * across * sine + d * down * cosine for a in (0, 1) for d in (0, 1)]
    box = masks_pb2.Box(
        x0=max(0.0, min(xs)),
        y0=max(0.0, min(ys)),
        x1=min(float(width), max(xs)),
        y1=min(float(height), max(ys)),
    )
    if not (box.x0 < box.x1 and box.y0 < box.y1):
        raise invalid("box", "one without pixels", "one in the image", "draw it larger")
    return box


def _png(mask: NDArray[np.bool_]) -> bytes:
    if not mask.any():
        raise invalid("stroke", "one without pixels", "one in the image", "draw it again")
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _stroke(rle: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        return decode_brush(rle, size)
    except ValueError:
        raise ContractError.of(
            "rle",
            got="no code of such an image",
            expected=f"Label Studio's brush RLE of {size[1]} x {size[0]} pixels",
            fix="draw the stroke again",
        ) from None
