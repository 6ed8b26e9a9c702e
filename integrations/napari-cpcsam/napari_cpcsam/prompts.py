"""Prompts of the client from a points layer and a shapes layer of napari."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.client import Prompt
from cpcsam.errors import ContractError
from napari_cpcsam.planes import Plane

if TYPE_CHECKING:
    from napari.layers import Points, Shapes

__all__ = ["LABEL", "NEGATIVE_SYMBOLS", "prompts_of"]

LABEL: Final = "label"
"""Name of the feature of points that tells positive from negative ones."""
NEGATIVE_WORDS: Final = ("0", "0.0", "false", "negative", "background")
NEGATIVE_SYMBOLS: Final = ("cross", "x")
"""Symbols of negative points, in layers without the feature."""

Box = tuple[float, float, float, float]


def prompts_of(plane: Plane, points: Points | None, shapes: Shapes | None) -> list[Prompt]:
    """Convert what lies in a plane to prompts.

    Points and at most one rectangle ask for one entity. Each of several rectangles asks for one of
    its own, with the points inside it; points outside all of them ask for a further one.

    Args:
        plane: of the image.
        points: clicks, on the entity or, by the feature `label` or by their symbol, beside it.
        shapes: rectangles; other shapes count by the rectangle around them.

    Raises:
        ContractError: there is neither a positive point nor a shape in the plane.
    """
    coords, labels = _points(plane, points)
    boxes = _boxes(plane, shapes)
    if len(boxes) == 1:
        return [_prompt(coords, labels, boxes[0])]
    inside = np.zeros((len(boxes), len(coords)), bool)
    for row, box in zip(inside, boxes, strict=True):
        row[:] = _inside(coords, box)
    prompts = [
        _prompt(coords[chosen], labels[chosen], box)
        for chosen, box in zip(inside, boxes, strict=True)
    ]
    outside = ~inside.any(axis=0)
    if labels[outside].any():
        prompts.append(_prompt(coords[outside], labels[outside], None))
    if not prompts:
        raise ContractError.of(
            "prompts",
            got="none in the plane that is shown",
            expected="a positive point or a rectangle",
            fix="add one to the chosen layers",
        )
    return prompts


def negative_points(points: Points) -> NDArray[np.bool_]:
    """Return (N,) bool, whether points lie beside the entity."""
    if LABEL in points.features:
        words = [str(value).lower() for value in points.features[LABEL]]
        return np.array([word in NEGATIVE_WORDS for word in words], bool)
    symbols = [str(getattr(symbol, "value", symbol)) for symbol in points.symbol]
    return np.array([symbol in NEGATIVE_SYMBOLS for symbol in symbols], bool)


def _points(plane: Plane, points: Points | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the points of the plane, (N, 2), and whether they are positive, (N,) bool."""
    if points is None or not len(points.data):
        return np.zeros((0, 2)), np.zeros(0, bool)
    coords, here = plane.coords_of(points, points.data)
    return coords[here], ~negative_points(points)[here]


def _boxes(plane: Plane, shapes: Shapes | None) -> list[Box]:
    boxes: list[Box] = []
    height, width = plane.shape[-2:]
    for corners in () if shapes is None else shapes.data:
        coords, here = plane.coords_of(shapes, corners)
        if not here.all():
            continue
        left, top = np.maximum(coords.min(axis=0), 0)
        right, bottom = np.minimum(coords.max(axis=0), (width, height))
        if left < right and top < bottom:
            boxes.append((float(left), float(top), float(right), float(bottom)))
    return boxes


def _inside(coords: NDArray[Any], box: Box) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = ((coords >= box[:2]) & (coords < box[2:])).all(axis=1)
    return inside


def _prompt(coords: NDArray[Any], positive: NDArray[np.bool_], box: Box | None) -> Prompt:
    places = tuple((float(x), float(y)) for x, y in coords)
    return Prompt(places, tuple(int(label) for label in positive), box)
