"""Boxes and areas read off run lengths equal those of the mask itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cpcsam.merging import FoundMask
from cpcsam.tiles import Tile
from serving.answer import found_response, mask_message, prompted_response
from serving.prompting import PromptedMasks
from serving.triton_answers import ChunkMasks

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def run_lengths(mask: NDArray[np.bool_]) -> bytes:
    return bytes(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])


@UNHURRIED
@given(masks)
def test_a_masks_message_describes_the_mask(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    message = mask_message(run_lengths(mask), 0.5, (height, width))
    rows, columns = np.nonzero(mask)
    expected = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert (message.box.x0, message.box.y0, message.box.x1, message.box.y1) == expected
    assert message.area == mask.sum()
    assert (message.coco_rle.size.height, message.coco_rle.size.width) == (height, width)
    decoded = coco_mask.decode({"size": [height, width], "counts": message.coco_rle.counts})
    assert (decoded == mask).all()


def test_chunks_are_put_together_in_order() -> None:
    mask = run_lengths(np.ones((2, 3), bool))

    def chunk(*scores: list[float]) -> ChunkMasks:
        counts = np.full((len(scores), len(scores[0])), mask, object)
        return ChunkMasks(counts, np.array(scores, np.float32))

    chunks = [chunk([0.1, 0.2], [0.3, 0.4]), chunk([0.5, 0.6])]
    response = prompted_response(PromptedMasks(chunks, cached=True), (2, 3))
    scores = [[found.score for found in result.masks] for result in response.results]
    assert scores == [pytest.approx(row) for row in ([0.1, 0.2], [0.3, 0.4], [0.5, 0.6])]
    assert response.cached and (response.original_size.height, response.original_size.width) == (
        2,
        3,
    )


def test_entities_are_told_with_their_class_and_place() -> None:
    part, area, whole = np.array([[True, False], [True, True]]), Tile(1, 2, 3, 4), Tile(0, 0, 5, 6)
    found = FoundMask(1, 0.75, (2.5, 1.5), area, part, whole, False, 0.5)
    (result,) = found_response([found], ("ring", "disc"), (5, 6), cached=False).results
    (mask,) = result.masks
    assert (mask.label, mask.score, mask.area) == ("disc", 0.75, 3)
    assert (mask.box.x0, mask.box.y0, mask.box.x1, mask.box.y1) == (2, 1, 4, 3)
    assert (result.found_at.x, result.found_at.y) == (2.5, 1.5)
    decoded = coco_mask.decode({"size": [5, 6], "counts": mask.coco_rle.counts})
    assert (decoded[1:3, 2:4] == part).all() and decoded.sum() == 3
