"""Outlines in COCO JSON, polygons and run lengths, checked before a library takes them.

pycocotools trusts its input: coordinates far outside make it allocate their distance in pixels, and
compressed run lengths that end early are read beyond their end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

__all__ = ["Fault", "Outline", "PARTS", "checked_outline", "decode_runs", "runs_of"]

PARTS: Final = "polygons of fewer than three points beside others, left out"
"""How an account calls them."""

Outline = list[list[float]] | Mapping[str, Any]
"""Polygons, each x, y, x, y, ... in pixels; or run lengths, COCO's `size` and `counts`."""

TOO_SHORT: Final = (0, 2, 4)
"""Coordinates of a polygon that holds no pixel."""

MARGIN: Final = 1.0
"""How far a polygon may reach beyond its image, in longer sides of the image."""

LONGEST_OUTLINE: Final = 2_000_000
"""Pixels of a polygon's circumference, which decide how much memory it takes to fill."""

MOST_GROUPS: Final = 7
"""Characters of a run length in compressed form, five bits each: 2**34 pixels."""


class Fault(NamedTuple):
    """Reason why an outline is unusable.

    Attributes:
        reason: its kind, for counts.
        got: what was found.
    """

    reason: str
    got: str


def checked_outline(
    segmentation: object, size: tuple[int, int], changed: Counter[str] | None = None
) -> Outline | Fault:
    """Check an annotation's `segmentation` and bring it into COCO's form.

    Beside COCO's own forms it takes one polygon without the outer list, points as pairs and numbers
    as text. Of several polygons those of fewer than three points are left out.

    Args:
        segmentation: as JSON holds it.
        size: (H, W) of the image, pixels.
        changed: of an account; polygons that are left out count there as `PARTS`.
    """
    if segmentation is None or segmentation in ([], {}, ""):
        return Fault("without an outline", "an empty mask")
    if isinstance(segmentation, list):
        return _polygons(segmentation, size, Counter() if changed is None else changed)
    if isinstance(segmentation, dict) and "counts" in segmentation:
        return _run_lengths(segmentation, size)
    return Fault("without an outline", "no segmentation")


def runs_of(outline: Outline, size: tuple[int, int]) -> Any:
    """Convert a checked outline to the RLE of pycocotools."""
    height, width = size
    if isinstance(outline, list):
        return coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
    counts = outline["counts"]
    if isinstance(counts, str):
        # pycocotools takes compressed run lengths as bytes, which JSON holds as text.
        return {"size": [height, width], "counts": counts.encode()}
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def _polygons(rows: list[Any], size: tuple[int, int], changed: Counter[str]) -> Outline | Fault:
    if not isinstance(rows[0], list) or _is_pair(rows[0]):
        rows = [rows]
    polygons = []
    for row in rows:
        polygon = _numbers(row)
        if polygon is None:
            return Fault("damaged polygons", "a polygon that holds no numbers")
        if len(polygon) in TOO_SHORT and len(rows) > 1:
            continue
        fault = _polygon_fault(polygon, size)
        if fault:
            return Fault("damaged polygons", fault)
        polygons.append(polygon)
    if not polygons:
        return Fault("damaged polygons", "a polygon of less than three points")
    if len(polygons) < len(rows):
        changed[PARTS] += len(rows) - len(polygons)
    return polygons


def _is_pair(row: list[Any]) -> bool:
    return len(row) == 2 and not isinstance(row[0], list)


def _numbers(row: Any) -> list[float] | None:
    """Return a polygon as a flat list of numbers; None if it is none."""
    if not isinstance(row, list):
        return None
    if row and all(isinstance(point, list) and len(point) == 2 for point in row):
        row = [value for point in row for value in point]
    polygon: list[float] = row
    if set(map(type, polygon)) <= {int, float}:
        return polygon
    if not set(map(type, polygon)) <= {int, float, str}:
        return None
    try:
        return [float(value) for value in polygon]
    except (ValueError, OverflowError):
        return None


def _polygon_fault(polygon: list[float], size: tuple[int, int]) -> str | None:
    if len(polygon) < 6:
        return "a polygon of less than three points"
    if len(polygon) % 2:
        return f"a polygon of {len(polygon)} coordinates, an odd number"
    low, high, margin = min(polygon), max(polygon), MARGIN * max(size)
    # Written so that NaN in the first place, which makes both NaN, fails too.
    if not (-margin <= low and high <= max(size) + margin):
        return "a polygon far outside of the image"
    total = sum(polygon)
    if total != total:
        return "a polygon with a coordinate that is no number"
    # An upper bound first: almost every polygon is far below the limit.
    if len(polygon) * (high - low) > LONGEST_OUTLINE:
        points = np.array(polygon).reshape(-1, 2)
        steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
        if steps.sum() > LONGEST_OUTLINE:
            return f"a polygon with a circumference of {steps.sum():.0f} pixels"
    return None


def _run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> Outline | Fault:
    given = segmentation.get("size")
    if not isinstance(given, list) or given != list(size):
        return Fault("run lengths of another size", f"a mask of size {str(given)[:40]}")
    counts, pixels = segmentation["counts"], size[0] * size[1]
    if isinstance(counts, str):
        decoded = decode_runs(counts)
        if decoded is None:
            return Fault("damaged run lengths", "compressed run lengths that cannot be decoded")
        if int(decoded.sum()) != pixels:
            return Fault("damaged run lengths", "run lengths that do not fill the image")
        return {"size": list(size), "counts": counts}
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int, float}:
        return Fault("damaged run lengths", "run lengths that are no whole numbers")
    # Bounds come first, as neither infinity nor a float beyond them becomes an integer.
    inside = all(0 <= count <= pixels and count == int(count) for count in counts)
    if not inside or sum(counts) != pixels:
        return Fault("damaged run lengths", "run lengths that do not fill the image")
    return {"size": list(size), "counts": [int(count) for count in counts]}


def decode_runs(text: str) -> NDArray[np.int64] | None:
    """Decode compressed run lengths (LEB128 with differences), as pycocotools' `rleFrString`.

    Returns:
        (N,) int64, background first; None if the text is damaged.
    """
    if not text or not text.isascii():
        return None
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - starts + 1
    if groups.max() > MOST_GROUPS:
        return None
    place = np.arange(codes.size) - np.repeat(starts, groups)
    counts: NDArray[np.int64] = np.add.reduceat((codes & 31) << (5 * place), starts)
    counts -= np.where(codes[ends] & 16, 1 << (5 * groups), 0)
    # From the fourth on, each is the difference to the one two places before.
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts if counts.min() >= 0 else None
