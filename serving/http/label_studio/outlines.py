"""Outlines for polygon tools: fewer corners than pixels have sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.outlines import signed_area, simplify_ring

__all__ = ["outlines_of"]

TOLERANCE: Final = 0.75
"""Pixels; the corners of a slanting line of pixels deviate by up to 0.71 from it."""
MIN_CORNERS: Final = 3


def outlines_of(rings: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    """Return the outer rings of a mask, simplified and the largest first; holes are filled.

    Args:
        rings: x0, y0, x1, y1, ... along the sides of pixels, outer ones clockwise as seen.

    Returns:
        (N, 2) float64 each, N >= 3, in pixels. A ring that is smaller than the tolerance is left
        out, except for the largest.
    """
    outer = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    outer = sorted((ring for ring in outer if signed_area(ring) > 0), key=signed_area, reverse=True)
    simple = [simplify_ring(ring, TOLERANCE) for ring in outer]
    kept = [ring for ring in simple if len(ring) >= MIN_CORNERS]
    return kept or outer[:1]
