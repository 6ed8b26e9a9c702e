"""Prompts of the gateway, from the marks that X-AnyLabeling collects on its canvas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.problems import Problem, quoted

__all__ = ["prompts_of"]

MOST: Final = 1e9
"""Pixels, which no coordinate reaches."""


def prompts_of(marks: object) -> list[pb.Prompt]:
    """Convert marks to prompts.

    Points and at most one rectangle ask for one entity. Each of several rectangles asks for one of
    its own, with the points inside it; points outside all of them ask for a further one. The client
    truncates coordinates to whole numbers, so a point names a pixel, and its centre is meant.

    Args:
        marks: list of objects, `{"type": "point", "data": [x, y], "label": 1 or 0}` or
            `{"type": "rectangle", "data": [x0, y0, x1, y1], "label": 1}`, in pixels.

    Raises:
        Problem: 400 for marks of another form, and where none says what is wanted.
    """
    if not isinstance(marks, list):
        raise _wrong("params.marks", type(marks).__name__, "a list", "leave it out")
    points: list[pb.Point] = []
    boxes: list[pb.Box] = []
    for index, mark in enumerate(marks):
        field = f"params.marks[{index}]"
        if not isinstance(mark, Mapping):
            raise _wrong(field, type(mark).__name__, "an object", "give type, data and label")
        if mark.get("type") == "point":
            x, y = _numbers(mark, 2, field)
            background = _label(mark, field) == 0
            points.append(pb.Point(x=_centre(x), y=_centre(y), background=background))
        elif mark.get("type") == "rectangle":
            boxes.append(_box(mark, field))
        else:
            raise _wrong(
                f"{field}.type", quoted(mark.get("type")), "point or rectangle", "use one of them"
            )
    prompts = _prompts(points, boxes)
    if not prompts:
        raise _wrong(
            "params.marks", "no mark on an entity", "a point or a rectangle", "add one to the image"
        )
    return prompts


def _prompts(points: list[pb.Point], boxes: list[pb.Box]) -> list[pb.Prompt]:
    if len(boxes) == 1:
        return [pb.Prompt(points=points, box=boxes[0])]
    prompts = [
        pb.Prompt(points=[point for point in points if _inside(point, box)], box=box)
        for box in boxes
    ]
    outside = [point for point in points if not any(_inside(point, box) for box in boxes)]
    if any(not point.background for point in outside):
        prompts.append(pb.Prompt(points=outside))
    return prompts


def _inside(point: pb.Point, box: pb.Box) -> bool:
    return box.x0 <= point.x < box.x1 and box.y0 <= point.y < box.y1


def _box(mark: Mapping[str, Any], field: str) -> pb.Box:
    if _label(mark, field) == 0:
        raise _wrong(f"{field}.label", "0", "1 for a rectangle", "exclude by points")
    x0, y0, x1, y1 = _numbers(mark, 4, field)
    return pb.Box(x0=min(x0, x1), y0=min(y0, y1), x1=max(x0, x1), y1=max(y0, y1))


def _label(mark: Mapping[str, Any], field: str) -> int:
    label = mark.get("label", 1)
    if label not in (0, 1):
        raise _wrong(
            f"{field}.label", quoted(label), "1 or 0", "use 1 on the entity and 0 beside it"
        )
    return int(label)


def _numbers(mark: Mapping[str, Any], count: int, field: str) -> list[float]:
    data = mark.get("data")
    if (
        isinstance(data, list)
        and len(data) == count
        and all(isinstance(value, int | float) and abs(value) < MOST for value in data)
    ):
        return [float(value) for value in data]
    raise _wrong(f"{field}.data", quoted(data), f"{count} numbers", "give pixels of the image")


def _centre(value: float) -> float:
    return value + 0.5 if value.is_integer() else value


def _wrong(field: str, got: str, expected: str, fix: str) -> Problem:
    return Problem.of(
        400,
        "INVALID_ARGUMENT",
        f"{field}: got {got}, expected {expected}; {fix}",
        field=field,
    )
