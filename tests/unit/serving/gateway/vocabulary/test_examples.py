"""Annotated images of AddClass: what their masks cover, and bounds of work and memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cpcsam.automatic.rle import rle_from_mask
from cpcsam.automatic.support_set import coverage_of
from cpcsam.automatic.tiling import tile_boxes
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import LimitError
from cpcsam.transforms import input_size_of
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import ModelInfo
from serving.gateway.limits import Limits
from serving.gateway.vocabulary.examples import SupportSet

MODEL = ModelInfo("2.51.0", "1", "vit_t", 256, "digest", "trained", mask_prompts=True)
SIZE = (60, 90)


def rle(mask: NDArray[np.bool_]) -> pb.CocoRle:
    height, width = mask.shape
    return pb.CocoRle(size=pb.Size(height=height, width=width), counts=rle_from_mask(mask).decode())


def test_coverages_equal_those_of_the_label_image() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((5, *SIZE)) < 0.2
    masks[3, :, -2:], masks[4, :, :3] = True, True  # runs that begin and end with the image
    labels = np.zeros(SIZE, np.int32)
    for label, mask in enumerate(masks, start=1):
        labels[mask] = label
    support = SupportSet(MODEL, Limits())
    covered = support.coverages("examples[0]", [rle(mask) for mask in masks], SIZE, 40)
    assert [tile for tile, _ in covered] == tile_boxes(SIZE, 40, 0.5)
    for tile, found in covered:
        expected = coverage_of(labels, tile, input_size_of(tile.size, 256), 16)
        assert np.array_equal(found.labels, expected.labels) and len(found.labels)
        assert np.array_equal(found.cells, expected.cells)
        assert found.cells.sum() == pytest.approx((tile.crop(labels) > 0).sum() / 6.25, rel=0.1)


def test_admit_bounds_the_pixels_and_the_tiles_of_all_images() -> None:
    support = SupportSet(MODEL, Limits(max_pixels=10_000))
    for _ in range(4):
        support.admit((100, 100), 0)
    with pytest.raises(LimitError, match="examples: got images of 40001 pixels or more in all"):
        support.admit((1, 1), 0)
    large = SupportSet(replace(MODEL, image_size=1024), Limits())
    for _ in range(5):
        large.admit((1, 60_000), 1)
    with pytest.raises(LimitError, match="examples: got images of 72 tiles or more in all, .*64"):
        large.admit((1, 60_000), 1)


def test_coverages_of_huge_masks_take_little_memory_and_many_are_refused() -> None:
    size = (8192, 8192)
    whole = pb.CocoRle(size=pb.Size(height=8192, width=8192), counts="0PPPPP2")
    support = SupportSet(MODEL, Limits())
    tracemalloc.start()
    try:
        ((_, covered),) = support.coverages("examples[0]", [whole], size, 0)
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()
    assert covered.cells.shape == (1, 16, 16) and covered.cells.min() == 1
    with pytest.raises(LimitError, match="masks of more than 16 times the image's area"):
        support.coverages("examples[0]", [whole] * 17, size, 0)


def test_coverages_of_many_entities_in_many_tiles_are_refused() -> None:
    size = (64, 64)
    mask = np.eye(64, dtype=bool)
    dots = [rle(mask & (np.arange(64) == column)) for column in range(64)]
    support = SupportSet(replace(MODEL, image_size=1024), Limits())
    covered = [support.coverages("examples[0]", dots, size, 0) for _ in range(128)]
    assert len(covered[0][0][1].labels) == 64
    with pytest.raises(LimitError, match=r"examples\[0\].entities: got too many in all tiles"):
        support.coverages("examples[0]", dots, size, 0)


def test_coverages_of_damaged_masks_or_none_name_the_example() -> None:
    support = SupportSet(MODEL, Limits())
    other = rle(np.ones((3, 4), bool))
    damaged = pb.CocoRle(size=pb.Size(height=SIZE[0], width=SIZE[1]), counts="1")
    for entities, message in (
        ([], r"examples\[0\].entities: got 0, expected 1 to 4096 masks"),
        ([other], r"examples\[0\].entities\[0\].size: got 3 x 4, expected 60 x 90"),
        ([damaged], r"^examples\[0\].entities\[0\].counts: run lengths: got 1 bytes that do not"),
    ):
        with pytest.raises(ContractError, match=message):
            support.coverages("examples[0]", entities, SIZE, 0)
