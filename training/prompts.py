"""Simulated annotations of one entity: clicks, boxes and their corrections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpcsam.contract import PointLabel

__all__ = [
    "MAX_SLOTS",
    "PromptMix",
    "central_pixel",
    "jittered_box",
    "pixel_inside",
    "pixel_outside",
    "pixel_wrong",
    "sample_prompt",
]

MAX_SLOTS = 4
"""Point slots of a simulated prompt; a box takes two."""

BoolMask = NDArray[np.bool_]
Slots = tuple[NDArray[np.float32], NDArray[np.int32]]


@dataclass(frozen=True)
class PromptMix:
    """Which annotations are drawn, as probabilities that sum to at most 1.

    Attributes:
        box: a box instead of clicks.
        several: a box or click with further clicks; the rest are single clicks.
        centre: of the first clicks, those in the entity's centre; the others are anywhere inside.
        wrong: of the first clicks, those that miss the entity by a little.
        box_jitter: standard deviation of every box side, in box sides.
    """

    box: float = 0.25
    several: float = 0.15
    centre: float = 0.4
    wrong: float = 0.0
    box_jitter: float = 0.1


def central_pixel(mask: BoolMask) -> tuple[float, float]:
    """(X, Y) of the entity's pixel nearest to its centroid."""
    rows, columns = np.nonzero(mask)
    distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    nearest = int(distance.argmin())
    return float(columns[nearest]), float(rows[nearest])


def pixel_inside(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """(X, Y) of a random pixel of the entity."""
    rows, columns = np.nonzero(mask)
    chosen = rng.integers(len(rows))
    return float(columns[chosen]), float(rows[chosen])


def pixel_outside(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """(X, Y) of a random pixel near the entity but not of it."""
    height, width = mask.shape
    x0, y0, x1, y1 = _tight_box(mask)
    reach = max(x1 - x0, y1 - y0, 8)
    near = np.zeros_like(mask)
    near[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach] = True
    candidates = near & ~mask
    if not candidates.any():
        return float(rng.integers(width)), float(rng.integers(height))
    return pixel_inside(candidates, rng)


def pixel_wrong(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """(X, Y) of a pixel that an annotator meant to be inside: just beyond the border."""
    rim = ndimage.binary_dilation(mask, iterations=3) & ~mask
    return pixel_inside(rim if rim.any() else mask, rng)


def _tight_box(mask: BoolMask) -> tuple[int, int, int, int]:
    """XYXY, the far corner exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def jittered_box(
    mask: BoolMask, jitter: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """XYXY box around the entity, every side moved by noise of `jitter` box sides."""
    height, width = mask.shape
    x0, y0, x1, y1 = _tight_box(mask)
    spread = jitter * np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    moved = np.array([x0, y0, x1, y1]) + rng.normal(0, 1, 4) * spread
    left, right = sorted(moved[[0, 2]].clip(0, width))
    top, bottom = sorted(moved[[1, 3]].clip(0, height))
    return float(left), float(top), max(float(right), left + 1), max(float(bottom), top + 1)


def sample_prompt(mask: BoolMask, mix: PromptMix, rng: np.random.Generator) -> Slots:
    """Annotate one entity at random.

    Args:
        mask: (S, S) bool with at least one pixel, the encoder's frame.
        mix: probabilities.
        rng: decides everything.

    Returns:
        point_coords (MAX_SLOTS, 2) float32, (X, Y), and point_labels (MAX_SLOTS,) int32.
    """
    coords = np.zeros((MAX_SLOTS, 2), np.float32)
    labels = np.full(MAX_SLOTS, PointLabel.EMPTY, np.int32)
    kind = rng.random()
    several = mix.box <= kind < mix.box + mix.several
    if kind < mix.box or (several and rng.random() < 0.5):
        coords[:2] = np.reshape(jittered_box(mask, mix.box_jitter, rng), (2, 2))
        labels[:2] = PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT
        filled = 2
    else:
        coords[0] = _first_click(mask, mix, rng)
        labels[0] = PointLabel.FOREGROUND
        filled = 1
    if several:
        for slot in range(filled, rng.integers(filled + 1, MAX_SLOTS + 1)):
            inside = rng.random() < 0.5
            coords[slot] = (pixel_inside if inside else pixel_outside)(mask, rng)
            labels[slot] = PointLabel.FOREGROUND if inside else PointLabel.BACKGROUND
    return coords, labels


def _first_click(mask: BoolMask, mix: PromptMix, rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() < mix.wrong:
        return pixel_wrong(mask, rng)
    return central_pixel(mask) if rng.random() < mix.centre else pixel_inside(mask, rng)
