from __future__ import annotations

import numpy as np
import pytest

from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.transforms import input_size_of, pad_image, resize_coords, upscale_masks


@pytest.mark.parametrize(
    ("original_size", "expected"),
    [
        ((480, 640), (192, 256)),
        ((640, 480), (256, 192)),
        ((3, 1000), (1, 256)),
        ((1, 1), (256, 256)),
    ],
)
def test_input_size_longest_side_fills_the_frame(
    original_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert input_size_of(original_size, 256) == expected


@pytest.mark.parametrize("original_size", [(1, 1000), (0, 0), (0, 5)])
def test_input_size_vanishing_side_raises(original_size: tuple[int, int]) -> None:
    with pytest.raises(ContractError, match="original_size"):
        input_size_of(original_size, 256)


def test_to_frame_pads_right_and_below() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    padded = pad_image(image, 8)
    assert np.array_equal(padded[:, :3, :5], image.transpose(2, 0, 1))
    assert padded.sum() == image.sum()


def test_resize_coords_scales_by_rounded_sizes() -> None:
    corner = resize_coords(np.array([[333.0, 500.0]]), (500, 333), 256)
    assert corner.dtype == np.float32
    assert corner.tolist() == [[170.0, 256.0]]


def test_resize_coords_without_two_coordinates_raises() -> None:
    with pytest.raises(ContractError, match="point_coords"):
        resize_coords(np.zeros((1, 3)), (10, 10), 256)


def test_upscale_masks_keeps_leading_dimensions_and_constants() -> None:
    upscaled = upscale_masks(np.full((2, 3, 64, 64), 1.5, np.float32), (256, 100), (77, 30), 256)
    assert upscaled.shape == (2, 3, 77, 30)
    assert np.allclose(upscaled, 1.5)


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
