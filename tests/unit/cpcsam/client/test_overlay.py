"""Pixels of the overlay: masks, contours, prompts and scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_erosion

from cpcsam.client.overlay import draw_overlay
from cpcsam.client.prompts import Prompt
from cpcsam.client.results import Mask, SegmentResult
from cpcsam.drawing import color_of, contour

# Nothing here depends on how fast the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)

SIZE = (80, 120)


def mask_of(array: NDArray[np.bool_], score: float = 0.5) -> Mask:
    counts = coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))["counts"].decode()
    return Mask((array.shape[0], array.shape[1]), counts, score, (0, 0, 1, 1), int(array.sum()))


def result_of(prompts: tuple[Prompt, ...], masks: tuple[tuple[Mask, ...], ...]) -> SegmentResult:
    return SegmentResult("", SIZE, prompts, masks, "segment", "1", {})


@UNHURRIED
@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)), st.integers(1, 3)
)
def test_contour_equals_the_mask_minus_its_erosion(mask: NDArray[np.bool_], width: int) -> None:
    assert (contour(mask, width) == (mask & ~binary_erosion(mask, iterations=width))).all()


def test_overlay_tints_the_mask_and_draws_its_contour() -> None:
    image = np.full((*SIZE, 3), 100, np.uint8)
    array = np.zeros(SIZE, bool)
    array[40:70, 60:100] = True
    prompt = Prompt.click(80, 55)
    drawn = np.array(draw_overlay(image, result_of((prompt,), ((mask_of(array),),))))
    assert drawn.shape == image.shape
    assert tuple(drawn[40, 90]) == color_of(0)
    tint = 100 + 0.35 * (np.array(color_of(0)) - 100)
    assert drawn[50, 70] == pytest.approx(tint, abs=1)
    assert (drawn[75:, :50] == 100).all()
    assert tuple(drawn[55, 80]) == color_of(0)
    assert (image == 100).all()


def test_overlay_draws_boxes_background_points_and_scores() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    nothing = mask_of(np.zeros(SIZE, bool))
    plain = np.array(draw_overlay(image, result_of((Prompt.click(5, 5),), ((nothing,),))))
    clicked = Prompt(((5, 5), (100, 60)), (1, 0), (20, 30, 70, 60))
    drawn = np.array(draw_overlay(image, result_of((clicked,), ((nothing,),))))
    changed = (plain != drawn).any(axis=-1)
    assert changed[30, 20:71].all() and changed[60, 100] and not changed[40, 40]
    scored = np.zeros(SIZE, bool)
    scored[:2, :2] = True
    with_text = np.array(draw_overlay(image, result_of((clicked,), ((mask_of(scored),),))))
    assert (with_text != drawn).any(axis=-1)[:12, 3:40].any()


def test_overlay_draws_where_points_and_boxes_were_moved() -> None:
    image, nothing = np.zeros((*SIZE, 3), np.uint8), mask_of(np.zeros(SIZE, bool))
    given = Prompt(((20, 30),), (1,), (40, 10, 60, 30))

    def drawn(taken: Prompt | None) -> NDArray[np.uint8]:
        result = replace(result_of((given,), ((nothing,),)), calibrated_prompts=(taken,))
        return np.array(draw_overlay(image, result))

    without = drawn(None)
    moved = drawn(Prompt(((20, 60),), (1,), (42, 12, 66, 44)))
    changed = (moved != without).any(axis=-1)
    assert changed[40:60, 20].all() and changed[44, 42:67].all() and changed[13:44, 66].all()
    assert not changed[:, 90:].any()
    assert (drawn(given) == without).all(), "nothing was moved"


def test_overlay_of_masks_at_the_edges_stays_inside_the_image() -> None:
    array = np.ones(SIZE, bool)
    prompts = (Prompt.click(0, 0), Prompt.click(119, 79), Prompt(box=(0, 0, 120, 80)))
    masks = tuple((mask_of(array, score),) * 3 for score in (0.1, 0.99, -0.2))
    picture = draw_overlay(np.zeros((*SIZE, 3), np.uint8), result_of(prompts, masks))
    assert picture.size == (120, 80) and picture.mode == "RGB"


def test_colors_of_neighbouring_prompts_differ() -> None:
    colors = np.array([color_of(index) for index in range(12)], int)
    steps = np.abs(np.diff(colors, axis=0)).max(axis=1)
    assert steps.min() > 60
    assert len({tuple(color) for color in colors}) == 12
