"""A prompt as the client's callers write it.

Points are (X, Y) and boxes XYXY, in pixels of the original image.
"""

from __future__ import annotations

from dataclasses import dataclass

from cpcsam.contract import PointLabel
from cpcsam.errors import ContractError

__all__ = ["XY", "XYXY", "Prompt"]

XY = tuple[float, float]
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """One entity, pointed at by points, a box or both.

    Attributes:
        point_coords: clicks, (X, Y).
        point_labels: 1 for a click on the entity, 0 for one beside it; empty means all 1.
        box: XYXY, or None.

    Raises:
        ContractError: labels do not match the points, or are neither 0 nor 1.
    """

    point_coords: tuple[XY, ...] = ()
    point_labels: tuple[int, ...] = ()
    box: XYXY | None = None

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
