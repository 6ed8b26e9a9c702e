"""Masks of a response: equal in every format, with their box and area; outlines are exact."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.geometry import Box
from cpcsam.polygons import rings_of
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.segmentation.by_prompts import PromptedMasks, PromptMasks
from serving.gateway.segmentation.responses import (
    instances_response,
    mask_message,
    prompted_response,
)

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

FORM = pb.MASK_FORMAT_COCO_RLE
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))

small_masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=10))


def instance(mask: NDArray[np.bool_], score: float = 0.5, stability: float = 0.5) -> InstanceMask:
    """A mask of the whole image."""
    whole = Box(0, 0, *mask.shape)
    return InstanceMask.from_mask(mask, whole, score=score, tile=whole, stability=stability)


@UNHURRIED
@given(masks)
def test_mask_message_describes_the_mask(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    message = mask_message(instance(mask), (height, width), pb.MASK_FORMAT_COCO_RLE)
    rows, columns = np.nonzero(mask)
    expected = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert (message.box.x0, message.box.y0, message.box.x1, message.box.y1) == expected
    assert message.area == mask.sum()
    assert (message.coco_rle.size.height, message.coco_rle.size.width) == (height, width)
    decoded = coco_mask.decode({"size": [height, width], "counts": message.coco_rle.counts})
    assert (decoded == mask).all()


@UNHURRIED
@given(masks)
def test_mask_message_formats_are_equivalent(mask: NDArray[np.bool_]) -> None:
    whole, size = instance(mask), (mask.shape[0], mask.shape[1])
    with Image.open(io.BytesIO(mask_message(whole, size, pb.MASK_FORMAT_PNG).png)) as image:
        assert image.mode == "1" and np.array_equal(np.array(image), mask)
    outline = mask_message(whole, size, pb.MASK_FORMAT_POLYGONS)
    drawn = np.zeros(size, int)
    for ring in outline.polygons.rings:
        corners = np.array(ring.coordinates).reshape(-1, 2).astype(int)
        for (x, y), (_, end) in zip(corners, np.roll(corners, -1, 0), strict=True):
            drawn[min(y, end) : max(y, end), x:] += 1
    assert np.array_equal(drawn % 2 == 1, mask)
    bare = mask_message(whole, size, pb.MASK_FORMAT_NONE)
    assert outline.WhichOneof("format") == "polygons" and bare.WhichOneof("format") is None
    assert outline.area == bare.area == mask.sum() and outline.box == bare.box


@pytest.mark.parametrize("part", [Box(0, 0, 2, 3), Box(1, 0, 2, 2)])
def test_prompted_response_keeps_order_and_logits(part: Box) -> None:
    logits = np.arange(4, dtype=np.float32)
    prompts = [
        PromptMasks(
            [
                replace(instance(np.ones((2, 3), bool), score, stability), tile=part)
                for score, stability in zip(scores, (0.7, 0.8), strict=True)
            ],
            np.stack([logits.reshape(2, 2)] * 2),
        )
        for scores in ([0.1, 0.2], [0.3, 0.4])
    ]
    response = prompted_response(
        PromptedMasks(prompts, cached=True), [pb.Prompt()] * 2, (2, 3), pb.MASK_FORMAT_NONE
    )
    scores = [[found.score for found in result.masks] for result in response.results]
    assert scores == [pytest.approx([0.1, 0.2]), pytest.approx([0.3, 0.4])]
    mask = response.results[0].masks[1]
    assert mask.stability == pytest.approx(0.8)
    assert np.array_equal(np.frombuffer(mask.low_res_mask.logits, "<f4"), logits)
    if part.size == (2, 3):
        assert not mask.low_res_mask.HasField("part")
    else:
        assert mask.low_res_mask.part == pb.Box(x0=0, y0=1, x1=2, y1=2)
    assert response.cached and response.original_size == pb.Size(height=2, width=3)
    assert not any(result.HasField("calibrated_prompt") for result in response.results)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            pb.Prompt(points=[pb.Point(x=1, y=1), pb.Point(x=2, y=2, background=True)]),
            pb.Prompt(points=[pb.Point(x=3, y=4), pb.Point(x=5, y=6, background=True)]),
        ),
        (
            pb.Prompt(points=[pb.Point(x=1, y=1)], box=pb.Box(x1=9, y1=9)),
            pb.Prompt(points=[pb.Point(x=3, y=4)], box=pb.Box(x0=5, y0=6, x1=7, y1=8)),
        ),
        (pb.Prompt(box=pb.Box(x1=9, y1=9)), pb.Prompt(box=pb.Box(x0=3, y0=4, x1=5, y1=6))),
    ],
)
def test_prompted_response_has_the_calibrated_points_and_box(
    prompt: pb.Prompt, expected: pb.Prompt
) -> None:
    coords = np.array([[3, 4], [5, 6], [7, 8], [0, 0]], np.float32)
    masks = PromptedMasks([PromptMasks([], None, coords)], cached=False)
    response = prompted_response(masks, [prompt], (20, 30), pb.MASK_FORMAT_NONE)
    assert response.results[0].calibrated_prompt == expected


def test_instances_response_has_class_and_point() -> None:
    part, box, whole = np.array([[True, False], [True, True]]), Box(1, 2, 3, 4), Box(0, 0, 5, 6)
    found = InstanceMask.from_mask(
        part, box, score=0.75, tile=whole, stability=0.5, class_index=1, point=(2.5, 1.5)
    )
    (result,) = instances_response([found], ("ring", "disc"), (5, 6), False, FORM).results
    (mask,) = result.masks
    assert (mask.label, mask.score, mask.stability, mask.area) == ("disc", 0.75, 0.5, 3)
    assert (mask.box.x0, mask.box.y0, mask.box.x1, mask.box.y1) == (2, 1, 4, 3)
    assert (result.found_at.x, result.found_at.y) == (2.5, 1.5)
    decoded = coco_mask.decode({"size": [5, 6], "counts": mask.coco_rle.counts})
    assert (decoded[1:3, 2:4] == part).all() and decoded.sum() == 3
    (outlined,) = instances_response(
        [found], ("ring", "disc"), (5, 6), False, pb.MASK_FORMAT_POLYGONS
    ).results
    (ring,) = outlined.masks[0].polygons.rings
    assert list(ring.coordinates) == [2, 1, 3, 1, 3, 2, 4, 2, 4, 3, 2, 3]


@UNHURRIED
@given(masks, st.tuples(*[st.integers(0, 3)] * 4))
def test_mask_message_of_a_part_describes_the_mask_in_the_image(
    mask: NDArray[np.bool_], margins: tuple[int, int, int, int]
) -> None:
    top, bottom, left, right = margins
    whole = np.pad(mask, ((top, bottom), (left, right)))
    part = Box(top, left, top + mask.shape[0], left + mask.shape[1])
    found = InstanceMask.from_mask(mask, part, score=0.5, tile=part, stability=0.5)
    for form in pb.MaskFormat.values():
        message = mask_message(found, (whole.shape[0], whole.shape[1]), form)
        expected = mask_message(instance(whole), (whole.shape[0], whole.shape[1]), form)
        assert message == expected


def filled(rings: list[list[tuple[int, int]]], size: tuple[int, int]) -> np.ndarray:
    """A pixel is inside if an odd number of upright lines lies to its left."""
    crossings = np.zeros(size, int)
    for ring in rings:
        for (x, y), (next_x, next_y) in zip(ring, [*ring[1:], ring[0]], strict=True):
            assert (x == next_x) != (y == next_y)
            crossings[min(y, next_y) : max(y, next_y), x:] += 1
    return crossings % 2 == 1


def turned(ring: list[tuple[int, int]]) -> float:
    """Twice the signed area, above 0 where the ring runs clockwise as the image is seen."""
    x, y = np.array(ring, float).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


@settings(deadline=None, max_examples=200)
@given(small_masks)
def test_rings_filled_equal_the_mask(mask: np.ndarray) -> None:
    rings = rings_of(mask)
    assert np.array_equal(filled(rings, mask.shape), mask)
    outer = [ring for ring in rings if turned(ring) > 0]
    assert len(outer) == ndimage.label(mask)[1]


@settings(deadline=None, max_examples=100)
@given(small_masks)
def test_rings_contain_only_corners(mask: np.ndarray) -> None:
    for ring in rings_of(mask):
        assert len(ring) >= 4
        for before, here, after in zip(
            [ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True
        ):
            straight = (before[0] == here[0] == after[0]) or (before[1] == here[1] == after[1])
            assert not straight


@given(st.integers(1, 9), st.integers(1, 9))
def test_rings_of_a_rectangle_are_four_corners_clockwise(height: int, width: int) -> None:
    assert rings_of(np.ones((height, width), bool)) == [
        [(0, 0), (width, 0), (width, height), (0, height)]
    ]


def test_rings_of_holes_run_counterclockwise() -> None:
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    outer, hole = rings_of(mask)
    assert turned(outer) == 18 and turned(hole) == -2
    assert rings_of(~mask) == [[(1, 1), (2, 1), (2, 2), (1, 2)]]
    assert rings_of(np.zeros((2, 2), bool)) == []
