from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

from cpcsam.transforms import input_size_of, resize_coords, resize_image, upscale_masks

SIDES = st.integers(1, 3000)
ODD_SIZES = [(500, 333), (333, 500), (1, 1), (97, 1021), (255, 256), (700, 701), (64, 64)]
IMAGE_SIZES = [256, 512, 1024]


def official_masks(
    low_res_masks: np.ndarray,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    side: int,
) -> np.ndarray:
    """`Sam.postprocess_masks`, of which only the encoder's `img_size` is read."""
    encoder = nn.Module()
    encoder.img_size = side
    sam = Sam(encoder, nn.Module(), nn.Module())
    masks = torch.from_numpy(low_res_masks)
    return np.asarray(sam.postprocess_masks(masks, input_size, original_size))


@given(SIDES, SIDES, st.sampled_from(IMAGE_SIZES))
def test_input_size_rounds_as_official(height: int, width: int, image_size: int) -> None:
    expected = ResizeLongestSide.get_preprocess_shape(height, width, image_size)
    if min(expected) > 0:
        assert input_size_of((height, width), image_size) == expected


@pytest.mark.parametrize("original_size", ODD_SIZES)
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_images_resize_as_official(original_size: tuple[int, int], image_size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*original_size, 3), dtype=np.uint8)
    expected = ResizeLongestSide(image_size).apply_image(image)
    assert np.array_equal(resize_image(image, image_size), expected)


@given(SIDES, SIDES, st.sampled_from(IMAGE_SIZES), st.integers(0, 2**32 - 1))
def test_points_scale_as_official(height: int, width: int, image_size: int, seed: int) -> None:
    if min(ResizeLongestSide.get_preprocess_shape(height, width, image_size)) < 1:
        return
    points = np.random.default_rng(seed).uniform(-10, max(height, width), (3, 5, 2))
    expected = ResizeLongestSide(image_size).apply_coords(points, (height, width))
    scaled = resize_coords(points, (height, width), image_size)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-4)


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.sampled_from([256, 512]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_masks_upscale_as_official(
    original_size: tuple[int, int], image_size: int, seed: int
) -> None:
    """Within 1e-4 of the logits' range."""
    if min(ResizeLongestSide.get_preprocess_shape(*original_size, image_size)) < 1:
        return
    input_size = input_size_of(original_size, image_size)
    rng = np.random.default_rng(seed)
    low_res_masks = rng.normal(0, 10, (1, 2, image_size // 4, image_size // 4)).astype(np.float32)
    expected = official_masks(low_res_masks, input_size, original_size, image_size)
    upscaled = upscale_masks(low_res_masks, input_size, original_size, image_size)
    assert upscaled.dtype == np.float32
    assert abs(upscaled - expected).max() <= 1e-4 * abs(expected).max()


def test_masks_upscale_as_official_at_1024() -> None:
    low_res_masks = np.random.default_rng(0).normal(0, 10, (1, 1, 256, 256)).astype(np.float32)
    input_size = input_size_of((999, 1501), 1024)
    expected = official_masks(low_res_masks, input_size, (999, 1501), 1024)
    upscaled = upscale_masks(low_res_masks, input_size, (999, 1501), 1024)
    assert abs(upscaled - expected).max() <= 1e-4 * abs(expected).max()
