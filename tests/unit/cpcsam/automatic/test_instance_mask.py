from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cpcsam.automatic.instance_mask import InstanceMask, bbox_from_mask, paste_crop
from cpcsam.automatic.rle import rle_from_mask
from cpcsam.geometry import EMPTY_BOX, Box

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
margins = st.tuples(*[st.integers(0, 3)] * 4)


@given(masks, margins)
def test_instance_mask_describes_the_mask_in_the_image(
    crop: np.ndarray, around: tuple[int, int, int, int]
) -> None:
    top, bottom, left, right = around
    whole = np.pad(crop, ((top, bottom), (left, right)))
    size = whole.shape[0], whole.shape[1]
    frame = Box(top, left, top + crop.shape[0], left + crop.shape[1])
    instance = InstanceMask.from_mask(crop, frame, score=0.5, tile=frame)
    assert instance.area == whole.sum() and instance.bbox == bbox_from_mask(whole)
    assert instance.mask.shape == instance.bbox.size
    assert np.array_equal(instance.in_region(Box(0, 0, *size)), whole)
    assert instance.rle(size) == rle_from_mask(whole)


def test_bbox_from_mask_of_an_empty_mask_is_the_empty_box() -> None:
    assert bbox_from_mask(np.zeros((3, 4), bool)) == EMPTY_BOX


def test_paste_crop_outside_the_region_is_empty() -> None:
    pasted = paste_crop(np.ones((2, 2), bool), Box(0, 0, 2, 2), Box(5, 5, 8, 9))
    assert pasted.shape == (3, 4) and not pasted.any()
