"""Prompts of the client: points, boxes and mask logits.

Points are (X, Y) and boxes XYXY, in pixels of the original image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import PointLabel
from cpcsam.errors import ContractError

__all__ = ["XY", "XYXY", "LowResMask", "Prompt"]

XY = tuple[float, float]
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True)
class LowResMask:
    """Low-resolution mask logits, to be passed as the `mask_input` of a further prompt.

    Attributes:
        content: logits of a square, little-endian float32, row-major.
        part: of the image that the model's frame shows, XYXY in pixels; None for all of it.

    Raises:
        ContractError: the content is not a square of float32, or the part no box.
    """

    content: bytes = field(repr=False)
    part: XYXY | None = None

    def __post_init__(self) -> None:
        """Validate that the content is a square, and take numbers of any type."""
        if not self.content or 4 * self.side**2 != len(self.content):
            raise ContractError.of(
                "low_res_mask",
                got=f"{len(self.content)} bytes",
                expected="a square of float32",
                fix="pass the low_res_mask of a result",
            )
        _set(self, "part", _box("low_res_mask.part", self.part))

    @property
    def side(self) -> int:
        """Number of rows and of columns, 4G."""
        return math.isqrt(len(self.content) // 4)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Read-only (4G, 4G) float32 logits in the model's frame, above 0 on the entity.

        The frame is a square; the image (or its part) lies in the top left corner, scaled so that
        its longest side fills the square.
        """
        return np.frombuffer(self.content, "<f4").reshape(self.side, self.side)

    @classmethod
    def of_logits(cls, logits: NDArray[np.floating[Any]], part: XYXY | None = None) -> LowResMask:
        """Build from (4G, 4G) logits in the model's frame.

        Args:
            logits: of any floating dtype, converted to float32.
            part: of the image that the frame shows, XYXY in pixels; None for all of it.

        Raises:
            ContractError: the logits are not square.
        """
        if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
            raise ContractError.of(
                "low_res_mask",
                got=f"shape {logits.shape}",
                expected="(4G, 4G), a square",
                fix="give the logits of one mask",
            )
        return cls(np.ascontiguousarray(logits, "<f4").tobytes(), part)


@dataclass(frozen=True)
class Prompt:
    """Prompt for a single entity: points, a box or a mask, or several of them.

    Attributes:
        point_coords: points, (X, Y) in pixels of the original image.
        point_labels: 1 for a foreground point, 0 for a background point; empty means all 1.
        box: XYXY in pixels of the original image, or None.
        mask_input: logits of an earlier result, to be refined; requires points or a box.
        mask: any mask of the image, to be refined, instead of `mask_input`: an array (H, W) that is
            not 0 on the entity, a PNG file's bytes, or COCO RLE as pycocotools encodes it. Without
            points and box, the mask's own box counts.

    Raises:
        ContractError: labels do not match the points, or are neither 0 nor 1; or coordinates are no
            numbers.
    """

    point_coords: tuple[XY, ...] = ()
    point_labels: tuple[int, ...] = ()
    box: XYXY | None = None
    mask_input: LowResMask | None = None
    mask: NDArray[Any] | bytes | Mapping[str, Any] | None = field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Fill in and validate the labels, and take numbers of any type, such as numpy's."""
        points = tuple(_numbers("point_coords", point, 2) for point in self.point_coords)
        _set(self, "point_coords", points)
        _set(self, "box", _box("box", self.box))
        if self.point_labels is None or not len(self.point_labels):
            _set(self, "point_labels", (PointLabel.FOREGROUND,) * len(points))
        if len(self.point_labels) != len(self.point_coords):
            raise ContractError.of(
                "point_labels",
                got=f"{len(self.point_labels)} labels",
                expected=f"{len(self.point_coords)} to match point_coords",
                fix="give one label per point",
            )
        if not set(self.point_labels) <= {PointLabel.BACKGROUND, PointLabel.FOREGROUND}:
            raise ContractError.of(
                "point_labels",
                got=self.point_labels,
                expected="0 or 1 for each point",
                fix="give a box in `box`, and leave out empty slots",
            )
        _set(self, "point_labels", tuple(map(int, self.point_labels)))

    @classmethod
    def click(cls, x: float, y: float) -> Prompt:
        """Make a prompt of a single foreground point (x, y), in pixels of the original image."""
        return cls(((x, y),))


def _set(instance: object, name: str, value: object) -> None:
    # The dataclasses are frozen; their own `__init__` assigns in this way.
    object.__setattr__(instance, name, value)


def _box(name: str, box: Iterable[Any] | None) -> tuple[float, ...] | None:
    return None if box is None else _numbers(name, box, 4)


def _numbers(name: str, values: Iterable[Any], count: int) -> tuple[float, ...]:
    """Return numbers as floats, which JSON holds.

    Raises:
        ContractError: they are none, or of another count.
    """
    try:
        values = tuple(values)
        is_right = all(isinstance(value, SupportsFloat) for value in values)
        numbers = tuple(map(float, values)) if is_right else ()
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count:
        raise ContractError.of(
            name, got=f"{values!r:.80}", expected=f"{count} numbers", fix="correct it"
        )
    return numbers
