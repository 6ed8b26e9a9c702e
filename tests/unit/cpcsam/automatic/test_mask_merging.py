from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.instance_mask import InstanceMask, bbox_from_mask
from cpcsam.automatic.mask_merging import label_map, mask_nms, merge_masks
from cpcsam.automatic.tiling import is_cut, tile_grid
from cpcsam.geometry import Box

SIZE = (96, 160)
WHOLE = Box(0, 0, *SIZE)
LEFT, RIGHT = Box(0, 0, 96, 96), Box(0, 64, 96, 160)


def disc(x: float, y: float, radius: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def seen_in(mask: np.ndarray, tile: Box, score: float = 0.9, class_index: int = 0) -> InstanceMask:
    """What a tile shows of a mask of the whole image."""
    part = tile.crop(mask)
    bbox = bbox_from_mask(part).translate(tile.top, tile.left)
    return InstanceMask.from_mask(
        np.ascontiguousarray(part),
        tile,
        score=score,
        tile=tile,
        is_cut=is_cut(bbox, tile, (mask.shape[0], mask.shape[1])),
        class_index=class_index,
        point=(float(bbox.left), float(bbox.top)),
    )


def test_is_cut_only_at_inner_sides() -> None:
    tile = Box(0, 0, 96, 96)
    at_image_side, at_inner_side = disc(0, 40, 9), disc(95, 40, 9)
    assert not seen_in(at_image_side, tile).is_cut
    assert seen_in(at_inner_side, tile).is_cut
    assert not seen_in(disc(60, 40, 9), tile).is_cut


@given(st.integers(0, 5000))
@settings(max_examples=25, deadline=None)
def test_merge_masks_restores_discs_seen_through_tiles(seed: int) -> None:
    """Whatever tiles show of each disc, merging gives the discs themselves."""
    rng = np.random.default_rng(seed)
    places = [(x, y) for x in range(20, 150, 30) for y in range(20, 90, 30)]
    discs = [
        disc(x + rng.integers(-3, 4), y + rng.integers(-3, 4), rng.uniform(4, 10))
        for x, y in (places[index] for index in rng.permutation(len(places))[:8])
    ]
    tiles = tile_grid(SIZE, 64, int(rng.integers(8, 40)))
    found = [
        seen_in(mask, tile, score=float(rng.uniform(0.5, 1)))
        for tile in tiles
        for mask in discs
        if mask[tile.top : tile.bottom, tile.left : tile.right].any()
    ]
    merged = merge_masks(found, tiles)
    assert len(merged) == len(discs)
    for mask in discs:
        assert any((one.in_region(WHOLE) == mask).all() for one in merged)


def test_merge_masks_joins_an_entity_larger_than_every_tile() -> None:
    large = disc(80, 48, 40)
    tiles = tile_grid(SIZE, 64, 32)
    merged = merge_masks([seen_in(large, tile) for tile in tiles], tiles)
    assert len(merged) == 1
    assert (merged[0].in_region(WHOLE) == large).all()


@pytest.mark.parametrize("nested, overlap", [(False, 32), (True, 16)])
@given(seed=st.integers(0, 5000))
@settings(max_examples=25, deadline=None)
def test_merge_masks_joins_large_touching_entities_whatever_their_scores(
    nested: bool, overlap: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    left = disc(rng.uniform(40, 55), rng.uniform(40, 56), rng.uniform(20, 40))
    entities = [left, disc(rng.uniform(95, 120), 48, 40) & ~left]
    tiles = tile_grid(SIZE, 64, overlap)
    found = [
        seen_in(mask, tile, score=float(rng.uniform(0.5, 1)))
        for tile in tiles
        for mask in entities
        if tile.crop(mask).any()
    ]
    merged = merge_masks(found, tiles, iou=0.7 if nested else 0.5, nested=nested)
    assert len(merged) == 2
    for mask in entities:
        assert any((one.in_region(WHOLE) == mask).all() for one in merged)


def test_merge_masks_keeps_parts_that_one_tile_tells_apart() -> None:
    """A tile that shows nothing but a part agrees with it and with the whole alike."""
    whole, part = disc(70, 48, 30), disc(85, 48, 15)
    first = [seen_in(whole, LEFT, 0.9), seen_in(part, LEFT, 0.8)]
    both = seen_in(part & whole, RIGHT, 0.7)
    merged = merge_masks([*first, both], [LEFT, RIGHT], iou=0.5, nested=True)
    assert len(merged) == 2


def test_merge_masks_keeps_disagreeing_cut_masks_apart() -> None:
    found = [seen_in(disc(80, 20, 28), LEFT), seen_in(disc(80, 70, 28), RIGHT)]
    assert len(merge_masks(found, [LEFT, RIGHT])) == 2


def test_merge_masks_outvotes_a_mask_at_its_tiles_side() -> None:
    mask = disc(88, 40, 6)
    assert merge_masks([seen_in(mask, LEFT)], [LEFT, RIGHT]) == []
    alone = merge_masks([seen_in(mask, RIGHT)], [LEFT, RIGHT])
    assert len(alone) == 1 and (alone[0].in_region(WHOLE) == mask).all()
    both = merge_masks([seen_in(mask, LEFT), seen_in(mask, RIGHT)], [LEFT, RIGHT])
    assert both[0].score > alone[0].score


def test_merge_masks_votes_on_every_pixel() -> None:
    """Three tiles that show the same: what two of them give stays, what one gives goes."""
    tiles = [Box(0, 0, 96, 96 + step) for step in (0, 1, 2)]
    small, large = disc(48, 48, 10), disc(48, 48, 12)
    merged = merge_masks(
        [seen_in(mask, tile) for mask, tile in zip((small, small, large), tiles, strict=True)],
        tiles,
    )
    assert len(merged) == 1
    assert (merged[0].in_region(WHOLE) == small).all()


def test_merge_masks_keeps_classes_apart() -> None:
    mask = disc(50, 50, 12)
    found = [seen_in(mask, WHOLE), seen_in(mask, WHOLE, class_index=1)]
    assert [one.class_index for one in merge_masks(found, [WHOLE])] == [0, 1]


def test_mask_nms_keeps_the_best_of_duplicates_and_drops_parts() -> None:
    masks = np.stack(
        [disc(40, 40, 10), disc(41, 40, 10), disc(40, 40, 5), disc(100, 40, 10), disc(0, 0, 0) & 0]
    ).astype(bool)
    scores = np.float32([0.7, 0.8, 0.6, 0.1, 0.9])
    kept = mask_nms(masks, scores, np.zeros(5, np.int64))
    assert kept.tolist() == [1, 3]
    apart = mask_nms(masks, scores, np.array([0, 1, 2, 3, 4]))
    assert apart.tolist() == [1, 0, 2, 3]


def test_mask_nms_of_no_masks_is_empty() -> None:
    none = mask_nms(np.zeros((0, 4, 4), bool), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert none.shape == (0,)


def test_label_map_earlier_masks_keep_shared_pixels() -> None:
    first, second = disc(40, 40, 10), disc(52, 40, 10)
    labels = label_map([seen_in(first, WHOLE), seen_in(second, WHOLE)], SIZE)
    assert ((labels == 1) == first).all()
    assert ((labels == 2) == (second & ~first)).all()
