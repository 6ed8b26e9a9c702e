"""Prompts of a predictor as arrays, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpcsam.contract import PointLabel
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.geometry import Box

__all__ = ["read_prompt", "require_shape", "require_within"]


def read_prompt(
    point_coords: ArrayLike | None, point_labels: ArrayLike | None, box: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (N, 2) coordinates and (N,) labels; the corners of a box are the last two.

    Raises:
        ContractError: other shapes.
    """
    coords = np.zeros((0, 2)) if point_coords is None else np.asarray(point_coords, np.float64)
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise _misshapen("point_coords", f"shape {coords.shape}", "(N, 2)")
    labels = np.zeros(0) if point_labels is None else np.asarray(point_labels)
    labels = require_shape("point_labels", labels, (len(coords),))
    if box is None:
        return coords, labels
    # segment-anything takes a box, and a batch of one box, too.
    shape = (1, 4) if np.ndim(box) == 2 else (4,)
    corners = require_shape("box", box, shape).reshape(2, 2)
    corner_labels = (PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT)
    return np.concatenate([coords, corners]), np.concatenate([labels, corner_labels])


def require_within(points: NDArray[Any], part: Box) -> None:
    """Require that a prompt lies in the part of the image that its mask_input shows.

    Args:
        points: (N, 2), (X, Y) pixels of the image.
        part: box of the image.

    Raises:
        ContractError: a point lies outside.
    """
    x0, y0, x1, y1 = part.xyxy
    if not ((points >= (x0, y0)) & (points <= (x1, y1))).all():
        raise ContractError.of(
            "mask_input",
            got=f"a prompt outside of {part.xyxy}, which it shows",
            expected="points and box within",
            fix="leave mask_input out",
        )


def require_shape(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a value as an array of this shape.

    Raises:
        ContractError: it has another.
    """
    array = np.asarray(value)
    if array.shape != shape:
        raise _misshapen(name, f"shape {array.shape}", str(shape))
    return array


def _misshapen(name: str, got: str, expected: str) -> CpcSamError:
    return ContractError.of(name, got=got, expected=expected, fix="correct its shape and type")
