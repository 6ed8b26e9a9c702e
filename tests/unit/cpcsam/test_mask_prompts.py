"""Binary masks as logits in the encoder's frame."""

from __future__ import annotations

import numpy as np
import pytest

from cpcsam.automatic.instance_mask import bbox_from_mask
from cpcsam.geometry import Box
from cpcsam.mask_prompts import MASK_LOGIT, logits_of_mask
from cpcsam.transforms import input_size_of, upscale_masks

SIDE = 64


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - 0.4 * height, x - 0.6 * width) < 0.25 * min(height, width)


@pytest.mark.parametrize("size", [(256, 256), (100, 300), (1000, 400), (40, 30)])
def test_upscaled_logits_are_the_mask_again(size: tuple[int, int]) -> None:
    mask = disc(*size)
    logits = logits_of_mask(mask, SIDE)
    assert logits.shape == (SIDE, SIDE) and logits.dtype == np.float32
    again = upscale_masks(logits, input_size_of(size, 4 * SIDE), size, 4 * SIDE) > 0
    assert (again & mask).sum() / (again | mask).sum() > 0.93


def test_logits_tell_the_covered_share_of_each_cell() -> None:
    mask = np.zeros((256, 256), bool)
    mask[:, :2] = True
    logits = logits_of_mask(mask, SIDE)
    assert logits[:, 0] == pytest.approx(0)
    assert (logits[:, 1:] == -MASK_LOGIT).all()
    assert (logits_of_mask(~mask, SIDE)[:, 1:] == MASK_LOGIT).all()


def test_a_part_fills_the_frame_and_padding_is_off_the_mask() -> None:
    mask = np.ones((200, 300), bool)
    logits = logits_of_mask(mask, SIDE, Box(50, 100, 150, 250))
    assert (logits[:42] == MASK_LOGIT).all()
    assert (logits[44:] == -MASK_LOGIT).all()


def test_the_box_holds_the_mask() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:9, 7:20] = True
    assert bbox_from_mask(mask).xyxy == (7, 5, 20, 9)
