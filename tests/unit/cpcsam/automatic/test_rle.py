"""Run lengths of a part are those of the whole; what is no mask is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cpcsam.automatic.rle import mask_from_rle, rle_from_crop, rle_from_mask
from cpcsam.errors import ContractError
from cpcsam.geometry import Box

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
margins = st.tuples(*[st.integers(0, 3)] * 4)


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
