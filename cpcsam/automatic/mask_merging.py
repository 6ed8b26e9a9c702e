"""Mask NMS, and merging of what overlapping tiles show: one mask an entity. Plain numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import InstanceMask, bbox_from_mask, paste_crop
from cpcsam.geometry import Box

__all__ = ["label_map", "mask_nms", "merge_masks"]

NMS_IOU: Final = 0.5
"""Masks of one class with at least this IoU are the same entity."""
NMS_CONTAINMENT: Final = 0.7
"""So are two masks of which the larger contains at least this fraction of the smaller."""

MAJORITY: Final = 0.5 - 1e-5
"""Of the votes; a tie stays, whatever the rounding."""
EDGE_WEIGHT: Final = 0.1
"""Weight of a tile's vote at its sides."""

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Decoded:
    """An instance with its pixels, which are read many times while merging."""

    instance: InstanceMask
    pixels: BoolMask

    def in_region(self, region: Box) -> BoolMask:
        """The pixels in a region of the image, of its size."""
        return paste_crop(self.pixels, self.instance.bbox, region)


def mask_nms(
    masks: BoolMask,
    scores: NDArray[np.float32],
    classes: NDArray[np.int64],
    iou_threshold: float = NMS_IOU,
    containment_threshold: float = NMS_CONTAINMENT,
) -> NDArray[np.int64]:
    """Non-maximum suppression (NMS) on masks of one frame, class by class.

    Args:
        masks: (n, h, w) bool.
        scores: (n,), higher is better.
        classes: (n,).
        iou_threshold: from this IoU on the mask with the lower score is dropped.
        containment_threshold: likewise from this fraction of the smaller mask inside the larger.

    Returns:
        Indices of the masks that stay, best first.
    """
    # One product gives all intersections; float32 counts pixels exactly up to 2^24.
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.float32)
    areas = flat.sum(1)
    intersection = flat @ flat.T
    smaller = np.minimum(areas[:, None], areas[None])
    union = areas[:, None] + areas[None] - intersection
    same = (intersection >= iou_threshold * np.maximum(union, 1)) | (
        intersection >= containment_threshold * np.maximum(smaller, 1)
    )
    same &= classes[:, None] == classes[None]
    kept: list[int] = []
    # Stable, so that ties are decided by the order of the masks and results are reproducible.
    for index in np.argsort(-scores, kind="stable"):
        if areas[index] and not same[index, kept].any():
            kept.append(int(index))
    return np.array(kept, np.int64)


def merge_masks(
    masks: Sequence[InstanceMask],
    tiles: Sequence[Box],
    iou: float = NMS_IOU,
    containment: float = NMS_CONTAINMENT,
    *,
    nested: bool = False,
) -> list[InstanceMask]:
    """Merge the masks of all tiles by vote.

    Whole masks come first, by score; then the cut ones. A mask that is the same entity as an
    earlier mask joins it, as does a cut mask that agrees with another where both tiles overlap. One
    that agrees with several entities so far joins those that no tile has shown as two. Of
    each entity a pixel remains if at least half of the tiles that show the pixel gave it to the
    entity; a tile's vote weighs most in its middle, where it sees the surroundings.

    Args:
        masks: of all tiles.
        tiles: all tiles, also those without any mask.
        iou: as for `mask_nms`; also what cut masks must agree by.
        containment: as for `mask_nms`.
        nested: entities may lie in each other, as parts do, so containment does not unite two; a
            cut mask joins what it agrees with where both tiles overlap, be that cut or not.

    Returns:
        One mask an entity, best first; the score is the best mask's times the mean vote.
    """
    groups: list[list[_Decoded]] = []
    for decoded in sorted((_Decoded(mask, mask.mask) for mask in masks), key=_rank):
        mask = decoded.instance
        same = [
            group
            for group in groups
            if group[0].instance.class_index == mask.class_index
            and any(
                _agree(member, decoded, iou, nested)
                or _is_same(member, decoded, iou, math.inf if nested else containment)
                for member in group
            )
        ]
        if not same:
            groups.append([decoded])
            continue
        entity, *others = same
        entity.append(decoded)
        for other in others:
            agrees = any(_agree(member, decoded, iou, nested) for member in other)
            if agrees and not _tiles_of(entity) & _tiles_of(other):
                entity += other
                groups = [group for group in groups if group is not other]
        entity.sort(key=_rank)
    voted = (_vote(group, tiles) for group in groups)
    return sorted((mask for mask in voted if mask is not None), key=lambda mask: -mask.score)


def _rank(decoded: _Decoded) -> tuple[bool, float]:
    """Return the key by which the best whole mask comes first, or the best cut one."""
    return decoded.instance.is_cut, -decoded.instance.score


def _tiles_of(group: Sequence[_Decoded]) -> set[Box]:
    return {member.instance.tile for member in group}


def _vote(group: Sequence[_Decoded], tiles: Sequence[Box]) -> InstanceMask | None:
    """Return the entity that tiles agree on; None if they do not."""
    # In sorted order the first is the best whole mask, or the best cut one if none is whole.
    best = group[0].instance
    region = best.bbox
    for member in group[1:]:
        region = region.enclosing(member.instance.bbox)
    shown, given = np.zeros(region.size, np.float32), np.zeros(region.size, np.float32)
    for tile in tiles:
        if region.intersection(tile) is None:
            continue
        weight = _vote_weight(tile, region)
        members = [member for member in group if member.instance.tile == tile]
        shown += weight
        # A tile votes once, however many of its masks joined the group.
        for part in members[:1]:
            covered = part.in_region(region)
            for other in members[1:]:
                covered |= other.in_region(region)
            given += weight * covered
    share = given / np.maximum(shown, 1e-6)
    mask = share >= MAJORITY
    if not mask.any():
        return None
    bbox = bbox_from_mask(mask)
    return InstanceMask.from_mask(
        np.ascontiguousarray(bbox.crop(mask)),
        bbox.translate(region.top, region.left),
        score=best.score * float(share[mask].mean()),
        tile=best.tile,
        is_cut=best.is_cut,
        stability=best.stability,
        class_index=best.class_index,
        point=best.point,
    )


def _vote_weight(tile: Box, region: Box) -> NDArray[np.float32]:
    """Weigh a tile's vote on a region's pixels: 1 in its middle, little at its sides, 0 outside."""
    axes = []
    for start, end, first, last in (
        (tile.top, tile.bottom, region.top, region.bottom),
        (tile.left, tile.right, region.left, region.right),
    ):
        place = (np.arange(first, last) + 0.5 - start) / (end - start)
        inner = 1 - (1 - EDGE_WEIGHT) * np.abs(2 * place - 1)
        axes.append(np.where((place > 0) & (place < 1), inner, 0))
    return np.asarray(np.minimum(axes[0][:, None], axes[1]), np.float32)


def label_map(masks: Sequence[InstanceMask], size: tuple[int, int]) -> NDArray[np.int32]:
    """Paint masks into a label image, 1..n in their order; the earlier keeps a shared pixel.

    Args:
        masks: of one image.
        size: (H, W) of the image.
    """
    labels = np.zeros(size, np.int32)
    for label, mask in enumerate(masks, start=1):
        shown = mask.bbox.crop(labels)
        shown[mask.mask & (shown == 0)] = label
    return labels


def _areas(first: _Decoded, second: _Decoded, region: Box) -> tuple[int, int, int]:
    """Return the pixels of the intersection and of each mask, in a region of the image."""
    pixels, others = first.in_region(region), second.in_region(region)
    return int((pixels & others).sum()), int(pixels.sum()), int(others.sum())


def _is_same(first: _Decoded, second: _Decoded, iou: float, containment: float) -> bool:
    region = first.instance.bbox.intersection(second.instance.bbox)
    # Masks of one tile have passed NMS, so they are different entities.
    if region is None or first.instance.tile == second.instance.tile:
        return False
    shared = _areas(first, second, region)[0]
    areas = first.instance.area, second.instance.area
    return shared > 0 and (
        shared >= iou * (sum(areas) - shared) or shared >= containment * min(areas)
    )


def _agree(first: _Decoded, second: _Decoded, iou: float, nested: bool) -> bool:
    """Return whether two masks, both cut or if nested either, show one entity in two tiles."""
    mask, other = first.instance, second.instance
    region = mask.tile.intersection(other.tile)
    cut = mask.is_cut or other.is_cut if nested else mask.is_cut and other.is_cut
    if not cut or mask.tile == other.tile or region is None:
        return False
    if mask.bbox.intersection(other.bbox) is None:
        return False
    # Compared where both tiles look: beyond it one of them saw nothing of the entity.
    shared, *areas = _areas(first, second, region)
    return shared > 0 and shared >= iou * (sum(areas) - shared)
