"""Whatever the format of an answer, it tells the mask itself, its box and its area."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cpcsam.automatic.mask_merging import FoundMask
from cpcsam.automatic.tiling import Tile
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.segmentation.by_prompts import PromptedMasks, PromptMasks
from serving.gateway.segmentation.responses import found_response, mask_message, prompted_response

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

FORM = pb.MASK_FORMAT_COCO_RLE
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def run_lengths(mask: NDArray[np.bool_]) -> bytes:
    return bytes(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])


@UNHURRIED
@given(masks)
def test_a_masks_message_describes_the_mask(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    message = mask_message(run_lengths(mask), (height, width), pb.MASK_FORMAT_COCO_RLE)
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
def test_every_format_is_the_same_mask(mask: NDArray[np.bool_]) -> None:
    counts, size = run_lengths(mask), (mask.shape[0], mask.shape[1])
    with Image.open(io.BytesIO(mask_message(counts, size, pb.MASK_FORMAT_PNG).png)) as image:
        assert image.mode == "1" and np.array_equal(np.array(image), mask)
    outline = mask_message(counts, size, pb.MASK_FORMAT_POLYGONS)
    drawn = np.zeros(size, int)
    for ring in outline.polygons.rings:
        corners = np.array(ring.coordinates).reshape(-1, 2).astype(int)
        for (x, y), (_, end) in zip(corners, np.roll(corners, -1, 0), strict=True):
            drawn[min(y, end) : max(y, end), x:] += 1
    assert np.array_equal(drawn % 2 == 1, mask)
    bare = mask_message(counts, size, pb.MASK_FORMAT_NONE)
    assert outline.WhichOneof("format") == "polygons" and bare.WhichOneof("format") is None
    assert outline.area == bare.area == mask.sum() and outline.box == bare.box


@pytest.mark.parametrize("part", [Tile(0, 0, 2, 3), Tile(1, 0, 2, 2)])
def test_prompts_are_answered_in_order_with_logits(part: Tile) -> None:
    counts, logits = run_lengths(np.ones((2, 3), bool)), np.arange(4, dtype=np.float32)
    prompts = [
        PromptMasks(
            part,
            [counts, counts],
            np.array(scores, np.float32),
            np.array([0.7, 0.8], np.float32),
            np.stack([logits.reshape(2, 2)] * 2),
        )
        for scores in ([0.1, 0.2], [0.3, 0.4])
    ]
    response = prompted_response(PromptedMasks(prompts, cached=True), (2, 3), pb.MASK_FORMAT_NONE)
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


def test_entities_are_told_with_their_class_and_place() -> None:
    part, area, whole = np.array([[True, False], [True, True]]), Tile(1, 2, 3, 4), Tile(0, 0, 5, 6)
    found = FoundMask(1, 0.75, (2.5, 1.5), area, part, whole, False, 0.5)
    (result,) = found_response([found], ("ring", "disc"), (5, 6), False, FORM).results
    (mask,) = result.masks
    assert (mask.label, mask.score, mask.stability, mask.area) == ("disc", 0.75, 0.5, 3)
    assert (mask.box.x0, mask.box.y0, mask.box.x1, mask.box.y1) == (2, 1, 4, 3)
    assert (result.found_at.x, result.found_at.y) == (2.5, 1.5)
    decoded = coco_mask.decode({"size": [5, 6], "counts": mask.coco_rle.counts})
    assert (decoded[1:3, 2:4] == part).all() and decoded.sum() == 3
    (outlined,) = found_response(
        [found], ("ring", "disc"), (5, 6), False, pb.MASK_FORMAT_POLYGONS
    ).results
    (ring,) = outlined.masks[0].polygons.rings
    assert list(ring.coordinates) == [2, 1, 3, 1, 3, 2, 4, 2, 4, 3, 2, 3]
