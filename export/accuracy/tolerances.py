"""Tolerances of every precision, relative to torch in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["TOLERANCES", "Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted deviation of an engine from torch.

    Attributes:
        grid: of every output on random tensors, relative to its largest absolute value.
        iou_mean: least mean IoU of the masks on real images.
        iou_min: least IoU of a single mask.
        boundary: largest mean distance of two masks' contours, as a fraction of the side S.
    """

    grid: float
    iou_mean: float
    iou_min: float
    boundary: float


TOLERANCES: Final = {
    "fp32": Tolerance(grid=1e-5, iou_mean=0.9999, iou_min=0.995, boundary=1e-4),
    "fp16": Tolerance(grid=2e-2, iou_mean=0.998, iou_min=0.99, boundary=1e-3),
    "int8": Tolerance(grid=5e-2, iou_mean=0.998, iou_min=0.99, boundary=1e-3),
}
"""By precision. Float32 rounding gives about 1e-6 on the grid."""
