from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cpcsam.automatic.instance_mask import InstanceMask, bbox_from_mask, paste_crop
from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.automatic.rle import mask_from_rle, rle_from_crop, rle_from_mask
from cpcsam.errors import ContractError
from cpcsam.geometry import EMPTY_BOX, Box
from cpcsam.transforms import input_size_of, upscale_masks

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


@given(masks, margins)
def test_rle_from_crop_equals_rle_of_the_whole_mask(
    part: np.ndarray, around: tuple[int, int, int, int]
) -> None:
    top, bottom, left, right = around
    whole = np.pad(part, ((top, bottom), (left, right)))
    area = Box(top, left, top + part.shape[0], left + part.shape[1])
    assert rle_from_crop(part, area, whole.shape) == rle_from_mask(whole)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_rle_round_trip(mask: np.ndarray) -> None:
    assert np.array_equal(mask_from_rle(rle_from_mask(mask), mask.shape), mask)


@given(st.integers(1, 50), st.integers(1, 50))
def test_rle_counts_along_columns(height: int, width: int) -> None:
    mask = np.zeros((height, width), bool)
    mask[0, 0] = True
    expected = rle_from_mask(np.asfortranarray(mask))
    assert rle_from_mask(mask) == expected
    assert mask_from_rle(expected, (height, width))[0, 0]


@given(st.binary(max_size=30), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_mask_from_rle_arbitrary_bytes_decode_or_raise(text: bytes, size: tuple[int, int]) -> None:
    try:
        assert mask_from_rle(text, size).shape == size
    except ContractError as error:
        assert "run lengths: got " in str(error)


@pytest.mark.parametrize("size", [(4, 4), (6, 5), (1, 1)])
def test_mask_from_rle_other_size_raises_contract_error(size: tuple[int, int]) -> None:
    counts = rle_from_mask(np.ones((5, 5), bool))
    with pytest.raises(ContractError, match="run lengths: got"):
        mask_from_rle(counts, size)


SIDE, LOW = 256, 64
sizes = st.tuples(st.integers(20, 300), st.integers(20, 300))


def blob(seed: int) -> np.ndarray:
    """(LOW, LOW) logits of one entity somewhere, -8 far from it."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:LOW, :LOW]
    centre, radius = rng.uniform(0, LOW, 2), rng.uniform(1, 30)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    noise = rng.normal(size=(LOW, LOW))
    return np.maximum(radius - distance + noise, -8).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), sizes, st.floats(0.1, 4))
def test_paste_mask_cropped_equals_upscaled_whole(
    seed: int, size: tuple[int, int], offset: float
) -> None:
    low_res_mask, input_size = blob(seed), input_size_of(size, SIDE)
    pasted = paste_mask(low_res_mask, input_size, size, SIDE, offset)
    logits = upscale_masks(low_res_mask, input_size, size, SIDE)
    whole = np.zeros(size, bool)
    whole[pasted.bbox.slices] = pasted.mask
    assert pasted.mask.shape == pasted.bbox.size and pasted.area == whole.sum()
    sure = np.abs(logits) > 1e-4
    assert np.array_equal(whole & sure, (logits > 0) & sure)
    if pasted.mask.any():
        assert pasted.mask[[0, -1]].any(1).all() and pasted.mask[:, [0, -1]].any(0).all()
        stability = (logits > offset).sum() / (logits > -offset).sum()
        assert pasted.stability == pytest.approx(stability, abs=1e-3)
    else:
        assert (pasted.bbox, pasted.stability) == (EMPTY_BOX, 0.0)


def test_paste_mask_empty_mask_has_empty_box() -> None:
    for value in (-9.0, -0.5):
        pasted = paste_mask(np.full((LOW, LOW), value, np.float32), (256, 200), (90, 70), SIDE)
        assert (pasted.bbox, pasted.mask.shape, pasted.stability) == (EMPTY_BOX, (0, 0), 0.0)
