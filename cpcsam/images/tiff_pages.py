"""Structure of a TIFF file: its directories, divided into pages and channels."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cpcsam.images.source import refusal

if TYPE_CHECKING:
    from tifffile import TiffPage, TiffPageSeries

__all__ = ["Plane", "check_pages", "layout_of", "opaque_samples", "planes_of"]

MAX_PAGES: Final = 1 << 16
ALPHA: Final = (1, 2)
"""Values of ExtraSamples for transparency."""


@dataclass(frozen=True)
class Plane:
    """A page: planes of a series, one for each channel that is stored apart."""

    series: TiffPageSeries
    indices: tuple[int, ...]


def check_pages(data: bytes) -> None:
    """Follow the chain of directories, which a hostile file makes endless."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    count_form, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    seen: set[int] = set()
    (offset,) = struct.unpack_from(order + link, data, 8 if big else 4)
    while offset and offset not in seen and len(seen) <= MAX_PAGES:
        seen.add(offset)
        try:
            (count,) = struct.unpack_from(order + count_form, data, offset)
            after = offset + struct.calcsize(count_form) + entry * count
            (offset,) = struct.unpack_from(order + link, data, after)
        except struct.error:
            break
    if len(seen) > MAX_PAGES:
        raise refusal(f"more than {MAX_PAGES} pages", f"at most {MAX_PAGES}", "split the file")


def planes_of(series: TiffPageSeries) -> list[Plane]:
    """Divide a series into pages; its axis C, if pixels have no samples, into channels."""
    stack = [
        (axis, length)
        for axis, length in zip(series.axes, series.shape, strict=True)
        if axis not in "YXS"
    ]
    count = len(series)
    lengths = [length for _, length in stack]
    if not count or math.prod(lengths) != count:
        return [Plane(series, (index,)) for index in range(count)]
    indices = np.arange(count).reshape(lengths)
    names = [axis for axis, _ in stack]
    if "C" in names and "S" not in series.axes:
        indices = np.moveaxis(indices, names.index("C"), -1).reshape(-1, lengths[names.index("C")])
    else:
        indices = indices.reshape(-1, 1)
    return [Plane(series, tuple(row)) for row in indices.tolist()]


def layout_of(frame: TiffPage) -> tuple[tuple[int, int], int]:
    """Return (H, W) and the samples of a page.

    Raises:
        ContractError: it has further axes.
    """
    if frame.axes not in ("YX", "YXS", "SYX"):
        raise refusal(f"a TIFF page of axes {frame.axes}", "YX, YXS or SYX", "write it as planes")
    return (int(frame.imagelength), int(frame.imagewidth)), int(frame.samplesperpixel)


def opaque_samples(frame: TiffPage) -> int:
    """Return the number of samples that come before opacity."""
    return int(frame.samplesperpixel) - sum(kind in ALPHA for kind in frame.extrasamples)
