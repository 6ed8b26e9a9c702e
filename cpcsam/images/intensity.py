"""Scaling of pixels of more than 8 bits, and of floats, to grey levels (contrast stretching)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.images.options import Intensity

__all__ = ["eight_bits", "rgb_of", "value_bounds"]

CHUNK: Final = 1 << 22
"""Values that are scaled at once, so that memory stays bounded."""
MAX_SORTED: Final = 1 << 24
"""Values that percentiles are taken of at most; of more, evenly spaced ones."""


def eight_bits(
    values: NDArray[Any], intensity: Intensity | None = None, *, white_is_zero: bool = False
) -> NDArray[np.uint8]:
    """Scale values to 0-255 by an intensity policy; 8 bits stay as they are, bool is 0 and 255.

    NaN is no data: it counts for no percentile and becomes 0.

    Args:
        values: of any shape, of an unsigned, signed or floating type.
        intensity: the policy; None takes the default.
        white_is_zero: high values are dark.

    Returns:
        An array of the same shape.
    """
    if white_is_zero:
        policy = (intensity or Intensity()).policy
        if values.dtype.kind == "u" and policy == "percentile":
            # Rounded as the same image is that is stored the other way round.
            return eight_bits(np.iinfo(values.dtype).max - values, intensity)
        return np.uint8(255) - eight_bits(values, intensity)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    low, high = value_bounds(values, intensity or Intensity())
    if values.dtype.itemsize <= 2 and values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        levels = _scaled(np.arange(limits.min, limits.max + 1), low, high)
        # A table of every value; signed values index it from the end, as Python's do.
        table = np.roll(levels, limits.min)
        found: NDArray[np.uint8] = table[values]
        return found
    eight = np.empty(values.shape, np.uint8)
    flat, source = eight.reshape(-1), values.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        flat[start : start + CHUNK] = _scaled(source[start : start + CHUNK], low, high)
    return eight


def rgb_of(grey_or_colour: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 3) of (H, W, 1), (H, W, 2), which is red and green, or (H, W, 3)."""
    channels = grey_or_colour.shape[2]
    if channels == 2:
        return np.pad(grey_or_colour, ((0, 0), (0, 0), (0, 1)))
    return np.repeat(grey_or_colour, 3, axis=2) if channels == 1 else grey_or_colour


def value_bounds(values: NDArray[Any], intensity: Intensity) -> tuple[float, float]:
    """Return the values that become 0 and 255; percentiles are interpolated linearly."""
    if intensity.policy == "range":
        return intensity.low, intensity.high
    shares = (intensity.low / 100, intensity.high / 100)
    if values.dtype.itemsize <= 2 and values.dtype.kind in "iu":
        return _counted(values.reshape(-1), shares)
    flat = values.reshape(-1)
    step = -(-flat.size // MAX_SORTED) or 1
    while step > 1 and (step % 2 == 0 or step % 3 == 0):
        step += 1  # else some channels would be passed over
    flat = flat[::step]
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if not flat.size:
        return 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.quantile(flat.astype(np.float64, copy=False), shares)
    return float(low), float(high)


def _counted(flat: NDArray[Any], shares: Sequence[float]) -> tuple[float, float]:
    """Compute quantiles of integers of at most 16 bits from their histogram."""
    lowest = np.iinfo(flat.dtype).min
    counts = np.zeros(1 << (8 * flat.dtype.itemsize), np.int64)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK].astype(np.int32) - lowest
        counts += np.bincount(part, minlength=counts.size)
    ranks = np.cumsum(counts)

    def value_at(rank: int) -> int:
        return int(np.searchsorted(ranks, rank, side="right")) + int(lowest)

    low, high = (
        value_at(int(rank)) * (1 - rank % 1)
        + value_at(min(int(rank) + 1, flat.size - 1)) * (rank % 1)
        for rank in (share * (flat.size - 1) for share in shares)
    )
    return low, high


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    numbers = values.astype(np.float64)
    if high > low:
        # Bounds may be as far apart as floats reach.
        with np.errstate(over="ignore", invalid="ignore"):
            shares = (numbers - low) / (high - low)
    else:
        # An image of one value, but for outliers: these are white.
        shares = (numbers > low).astype(np.float64)
    shares = np.nan_to_num(shares, nan=0.0, posinf=1.0, neginf=0.0)
    return np.asarray(np.rint(shares.clip(0, 1) * 255), np.uint8)
