"""A mask that is upscaled where it reaches alone is the mask that is upscaled whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.geometry import EMPTY_BOX
from cpcsam.transforms import input_size_of, upscale_masks

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
