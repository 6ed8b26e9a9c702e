"""Masks as COCO's compressed run lengths, also of an image of which only a part is at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cpcsam.automatic.tiling import Tile
from cpcsam.errors import ContractError

__all__ = ["area_of_rle", "mask_from_rle", "pixels_of_rle", "rle_from_mask", "rle_of_part"]


def rle_from_mask(mask: NDArray[np.bool_]) -> bytes:
    """COCO compressed run lengths (the `counts` string) of one (H, W) mask."""
    encoded = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return bytes(encoded["counts"])


def mask_from_rle(counts: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The (H, W) mask of COCO compressed run lengths; the inverse of `rle_from_mask`.

    Raises:
        ContractError: these are not the run lengths of a mask of this size.
    """
    # pycocotools leaves what too few runs do not cover to whatever the memory held before.
    runs = _runs(counts)
    if runs is None or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ContractError.of(
            "run lengths",
            got=f"{len(counts)} bytes that do not fill {size[0]} x {size[1]} pixels",
            expected="the counts string of pycocotools.mask.encode",
            fix="encode the mask anew",
        )
    return np.asarray(coco_mask.decode({"counts": counts, "size": list(size)}), bool)


def _runs(counts: bytes) -> list[int] | None:
    """Runs of a counts string, each from the fourth on as the difference to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        digit = byte - ord("0")
        if not 0 <= digit < 64:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return None if shift else runs


def area_of_rle(counts: bytes, size: tuple[int, int]) -> Tile | None:
    """The smallest box around the mask of run lengths; None where it is empty."""
    x, y, width, height = map(int, coco_mask.toBbox({"counts": counts, "size": list(size)}))
    return Tile(y, x, y + height, x + width) if width else None


def pixels_of_rle(counts: bytes, size: tuple[int, int]) -> int:
    """How many pixels the mask of run lengths has."""
    return int(coco_mask.area({"counts": counts, "size": list(size)}))


def rle_of_part(part: NDArray[np.bool_], area: Tile, size: tuple[int, int]) -> bytes:
    """Run lengths of an image-sized mask that is empty beside one part, without making it.

    Args:
        part: (h, w) bool, of the area's size.
        area: where the part lies.
        size: (H, W) of the image.
    """
    edges = np.diff(np.pad(part.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    columns, rows = np.nonzero(edges)
    # Runs count along columns, so a column's runs begin where the column does.
    bounds = (area.left + columns) * size[0] + area.top + rows
    if area.size[0] == size[0]:  # a run may go on in the next column
        bounds = _joined(bounds)
    end = size[0] * size[1]
    counts = np.diff(np.concatenate([[0], bounds, [end] if end not in bounds[-1:] else []]))
    uncompressed = {"counts": counts.astype(int).tolist(), "size": list(size)}
    return bytes(coco_mask.frPyObjects(uncompressed, *size)["counts"])


def _joined(bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out where a run ends and the next begins."""
    same = bounds[1:] == bounds[:-1]
    kept = np.ones(len(bounds), bool)
    kept[1:] &= ~same
    kept[:-1] &= ~same
    joined: NDArray[np.int64] = bounds[kept]
    return joined
