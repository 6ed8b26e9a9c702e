from __future__ import annotations

import numpy as np

from cpcsam.geometry import Box


def test_box_intersection_is_the_shared_part() -> None:
    first = Box(0, 0, 10, 10)
    assert first.intersection(Box(5, 8, 20, 20)) == Box(5, 8, 10, 10)
    assert first.intersection(Box(10, 0, 20, 10)) is None


def test_box_enclosing_holds_both_boxes() -> None:
    assert Box(0, 5, 3, 9).enclosing(Box(2, 1, 8, 4)) == Box(0, 1, 8, 9)


def test_box_crop_and_xyxy_address_the_same_pixels() -> None:
    image = np.arange(20).reshape(4, 5)
    box = Box(1, 2, 3, 5)
    x0, y0, x1, y1 = box.xyxy
    assert np.array_equal(box.crop(image), image[y0:y1, x0:x1])
    assert np.array_equal(box.translate(1, -2).crop(image), image[2:4, 0:3])
    assert box.size == (2, 3)
