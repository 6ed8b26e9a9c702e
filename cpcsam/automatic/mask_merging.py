"""One mask an entity: duplicates removed, and entities that tiles cut put together. Plain numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.tiling import Tile

__all__ = ["FoundMask", "label_map", "merge_masks", "suppress"]

NMS_IOU: Final = 0.5
"""Two masks of one class that overlap by this much are the same entity."""
NMS_INSIDE: Final = 0.7
"""So are two of which the smaller lies in the larger by this part."""

HALF: Final = 0.5 - 1e-5
"""Of the votes; a tie stays, whatever the rounding."""
AT_SIDE: Final = 0.1
"""Weight of a tile's vote at its sides."""

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class FoundMask:
    """A mask of one entity in the original image.

    Attributes:
        class_index: of its class.
        score: predicted IoU times the class's mean probability under the mask.
        click: (X, Y), the middle of the prompt, pixels of the original image.
        area: where `mask` lies: the smallest box around the entity.
        mask: (h, w) bool, of the area's size.
        tile: where it was found, or its best part.
        cut: whether it reaches an inner side of its tile, so that a part may be missing.
        stability: how little it changes with the threshold of its logits; 1 without logits.
    """

    class_index: int
    score: float
    click: tuple[float, float]
    area: Tile
    mask: BoolMask
    tile: Tile
    cut: bool
    stability: float = 1.0

    def within(self, part: Tile) -> BoolMask:
        """The mask in a part of the image, of the part's size."""
        result = np.zeros(part.size, bool)
        shared = self.area.shared_with(part)
        if shared is not None:
            rows = slice(shared.top - part.top, shared.bottom - part.top)
            columns = slice(shared.left - part.left, shared.right - part.left)
            result[rows, columns] = self.mask[
                shared.top - self.area.top : shared.bottom - self.area.top,
                shared.left - self.area.left : shared.right - self.area.left,
            ]
        return result


def suppress(
    masks: BoolMask,
    scores: NDArray[np.float32],
    classes: NDArray[np.int64],
    iou: float = NMS_IOU,
    inside: float = NMS_INSIDE,
) -> NDArray[np.int64]:
    """Non-maximum suppression on masks of one frame, class by class.

    Args:
        masks: (n, h, w) bool.
        scores: (n,), higher is better.
        classes: (n,).
        iou: from this IoU on the lower score is dropped.
        inside: or from this part of the smaller mask on inside the larger.

    Returns:
        Indices of what is kept, best first.
    """
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.float32)
    areas = flat.sum(1)
    shared = flat @ flat.T
    smaller = np.minimum(areas[:, None], areas[None])
    union = areas[:, None] + areas[None] - shared
    same = (shared >= iou * np.maximum(union, 1)) | (shared >= inside * np.maximum(smaller, 1))
    same &= classes[:, None] == classes[None]
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if areas[index] and not same[index, kept].any():
            kept.append(int(index))
    return np.array(kept, np.int64)


def merge_masks(
    found: Sequence[FoundMask],
    tiles: Sequence[Tile],
    iou: float = NMS_IOU,
    inside: float = NMS_INSIDE,
    *,
    nested: bool = False,
) -> list[FoundMask]:
    """Unite what all tiles found, by vote.

    Whole masks come first, by score; then the cut ones. One that is the same entity as an earlier
    one joins it, as does a cut one that agrees with another where both tiles look. Of each entity
    a pixel remains if at least half of the tiles that show the pixel gave it to the entity; a
    tile's vote weighs most in its middle, where it sees the surroundings.

    Args:
        found: masks of all tiles.
        tiles: all tiles, also those in which nothing was found.
        iou: as for `suppress`; also what cut masks must agree by.
        inside: as for `suppress`.
        nested: entities may lie in each other, as parts do, so being inside does not unite two; a
            cut mask joins what it agrees with where both tiles look, be that cut or not.

    Returns:
        One mask an entity, best first; the score is the best mask's times the mean vote.
    """
    groups: list[list[FoundMask]] = []
    for mask in sorted(found, key=lambda one: (one.cut, -one.score)):
        for group in groups:
            if group[0].class_index == mask.class_index and any(
                _agree(member, mask, iou, nested)
                or _same(member, mask, iou, math.inf if nested else inside)
                for member in group
            ):
                group.append(mask)
                break
        else:
            groups.append([mask])
    voted = (_vote(group, tiles) for group in groups)
    return sorted((one for one in voted if one is not None), key=lambda one: -one.score)


def _vote(group: Sequence[FoundMask], tiles: Sequence[Tile]) -> FoundMask | None:
    """The entity that tiles agree on; None where they do not."""
    area = group[0].area
    for member in group[1:]:
        area = _around(area, member.area)
    shown, given = np.zeros(area.size, np.float32), np.zeros(area.size, np.float32)
    for tile in tiles:
        if area.shared_with(tile) is None:
            continue
        weight = _weight(tile, area)
        members = [member for member in group if member.tile == tile]
        shown += weight
        for part in members[:1]:
            covered = part.within(area)
            for other in members[1:]:
                covered |= other.within(area)
            given += weight * covered
    share = given / np.maximum(shown, 1e-6)
    mask = share >= HALF
    if not mask.any():
        return None
    score = group[0].score * float(share[mask].mean())
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = (
        int(at) for at in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
    )
    tight = Tile(area.top + top, area.left + left, area.top + bottom, area.left + right)
    return replace(
        group[0], score=score, area=tight, mask=np.ascontiguousarray(mask[top:bottom, left:right])
    )


def _weight(tile: Tile, area: Tile) -> NDArray[np.float32]:
    """A tile's vote on an area's pixels: 1 in its middle, little at its sides, 0 beside it."""
    axes = []
    for start, end, first, last in (
        (tile.top, tile.bottom, area.top, area.bottom),
        (tile.left, tile.right, area.left, area.right),
    ):
        place = (np.arange(first, last) + 0.5 - start) / (end - start)
        inner = 1 - (1 - AT_SIDE) * np.abs(2 * place - 1)
        axes.append(np.where((place > 0) & (place < 1), inner, 0))
    return np.asarray(np.minimum(axes[0][:, None], axes[1]), np.float32)


def label_map(found: Sequence[FoundMask], size: tuple[int, int]) -> NDArray[np.int32]:
    """Paint masks into one label image, 1..n in their order; the earlier keeps a shared pixel.

    Args:
        found: the masks.
        size: (H, W) of the image.
    """
    labels = np.zeros(size, np.int32)
    for label, one in enumerate(found, start=1):
        shown = labels[one.area.top : one.area.bottom, one.area.left : one.area.right]
        shown[one.mask & (shown == 0)] = label
    return labels


def _overlap(first: FoundMask, second: FoundMask, part: Tile) -> tuple[int, int, int]:
    """Pixels shared and of each, in a part of the image."""
    one, other = first.within(part), second.within(part)
    return int((one & other).sum()), int(one.sum()), int(other.sum())


def _same(first: FoundMask, second: FoundMask, iou: float, inside: float) -> bool:
    part = first.area.shared_with(second.area)
    if part is None or first.tile == second.tile:
        return False
    shared = _overlap(first, second, part)[0]
    sizes = int(first.mask.sum()), int(second.mask.sum())
    return shared > 0 and (shared >= iou * (sum(sizes) - shared) or shared >= inside * min(sizes))


def _agree(first: FoundMask, second: FoundMask, iou: float, nested: bool) -> bool:
    """Whether two masks, both cut or where nested either, show one entity from different tiles."""
    part = first.tile.shared_with(second.tile)
    cut = first.cut or second.cut if nested else first.cut and second.cut
    if not cut or first.tile == second.tile or part is None:
        return False
    if first.area.shared_with(second.area) is None:
        return False
    shared, *sizes = _overlap(first, second, part)
    return shared > 0 and shared >= iou * (sum(sizes) - shared)


def _around(first: Tile, second: Tile) -> Tile:
    return Tile(
        min(first.top, second.top),
        min(first.left, second.left),
        max(first.bottom, second.bottom),
        max(first.right, second.right),
    )
