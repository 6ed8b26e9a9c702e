"""A prompt as the client's callers write it.

Points are (X, Y) and boxes XYXY, in pixels of the original image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import PointLabel
from cpcsam.errors import ContractError

__all__ = ["XY", "XYXY", "LowResMask", "Prompt"]

XY = tuple[float, float]
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True)
class LowResMask:
    """A mask as the model makes and takes it, to be given back in a further prompt.

    Attributes:
        content: its logits, little-endian float32, row by row.
        part: of the image, XYXY, that the model's frame shows; None for the whole image.

    Raises:
        ContractError: not the content of a square.
    """

    content: bytes = field(repr=False)
    part: XYXY | None = None

    def __post_init__(self) -> None:
        """Refuse what is no square."""
        if not self.content or 4 * self.side**2 != len(self.content):
            raise ContractError.of(
                "low_res_mask",
                got=f"{len(self.content)} bytes",
                expected="a square of float32",
                fix="give back what an answer brought",
            )

    @property
    def side(self) -> int:
        """Rows and columns."""
        return math.isqrt(len(self.content) // 4)

    @property
    def logits(self) -> NDArray[np.float32]:
        """(4G, 4G) float32, above 0 on the entity, in the model's frame; it cannot be written to.

        The frame is a square in whose top left corner lies what it shows, its longest side filling
        it.
        """
        return np.frombuffer(self.content, "<f4").reshape(self.side, self.side)

    @classmethod
    def of_logits(cls, logits: NDArray[np.floating[Any]], part: XYXY | None = None) -> LowResMask:
        """Mask of (4G, 4G) logits.

        Raises:
            ContractError: no square.
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
    """One entity, pointed at by points, a box or both, and beside them by a mask.

    Attributes:
        point_coords: clicks, (X, Y).
        point_labels: 1 for a click on the entity, 0 for one beside it; empty means all 1.
        box: XYXY, or None.
        mask_input: of an earlier answer, to be improved on; only beside points or a box.

    Raises:
        ContractError: labels do not match the points, or are neither 0 nor 1.
    """

    point_coords: tuple[XY, ...] = ()
    point_labels: tuple[int, ...] = ()
    box: XYXY | None = None
    mask_input: LowResMask | None = None

    def __post_init__(self) -> None:
        """Fill in and check the labels."""
        if not self.point_labels:
            ones = (int(PointLabel.FOREGROUND),) * len(self.point_coords)
            object.__setattr__(self, "point_labels", ones)
        if len(self.point_labels) != len(self.point_coords):
            raise ContractError.of(
                "point_labels",
                got=f"{len(self.point_labels)} labels",
                expected=f"{len(self.point_coords)} to match point_coords",
                fix="give one label a point",
            )
        if not set(self.point_labels) <= {PointLabel.BACKGROUND, PointLabel.FOREGROUND}:
            raise ContractError.of(
                "point_labels",
                got=self.point_labels,
                expected="0 or 1 for each point",
                fix="give a box in `box`, and leave out empty slots",
            )

    @classmethod
    def click(cls, x: float, y: float) -> Prompt:
        """Prompt of one click on the entity."""
        return cls(((x, y),))
