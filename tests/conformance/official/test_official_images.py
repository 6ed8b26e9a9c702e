"""Transforms, masks and logits of images of every kind equal those of official SAM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

from cpcsam.automatic.rle import mask_from_rle
from cpcsam.contract import MAX_PIXELS, MaskSelection
from cpcsam.entry_points import DECODE
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from cpcsam.transforms import input_size_of, resize_coords, resize_image, upscale_masks
from serving.backend.postprocess import postprocess
from serving.backend.preprocess import preprocess, scale_prompts
from serving.backend.step import Request
from tests.support.paths import ROOT
from tests.support.picture_files import Pixels, picture_files

TOLERANCE = 5e-5
FILES = picture_files()
POINTS = np.array([[20.0, 40.0], [25.0, 10.0]], np.float32)
LABELS = np.array([1, 0], np.int32)

SIDES = st.integers(1, 3000)
ODD_SIZES = [(500, 333), (333, 500), (1, 1), (97, 1021), (255, 256), (700, 701), (64, 64)]
IMAGE_SIZES = [256, 512, 1024]


@pytest.fixture(scope="module")
def model() -> CpcSam:
    return load_base(ROOT / "weights/vit_t")


def answered(model: CpcSam, data: bytes) -> dict[str, np.ndarray]:
    """What `segment` answers, the graphs being torch's."""
    backend = TorchBackend(model)
    size = backend.image_size
    files = Request({"image_bytes": np.array([[data]], object)}, frozenset())
    tensors = dict(preprocess(files, size, MAX_PIXELS))
    tensors |= {
        "point_coords": POINTS[None, None],
        "point_labels": LABELS[None, None],
        "mask_selection": np.array([[MaskSelection.ALL]], np.int32),
    }
    scaled = scale_prompts(Request(tensors, frozenset()), size)["scaled_point_coords"]
    embeddings = backend.encode(tensors["image"], tensors["input_size"])
    masks, predicted = backend.decode(embeddings, scaled, tensors["point_labels"])
    tensors |= {"low_res_masks": masks, "iou_predictions": predicted}
    asked = Request(tensors, frozenset(DECODE.output_names))
    return dict(postprocess(asked, size, MAX_PIXELS)) | tensors


@pytest.mark.parametrize("kind", FILES)
def test_masks_and_logits_equal_official_predictor(model: CpcSam, kind: str) -> None:
    data, pixels = FILES[kind]
    found = answered(model, data)
    assert found["original_size"].tolist() == [list(pixels.shape[:2])]
    expected, scores, logits = official(model, pixels)
    assert np.abs(found["scores"][0, 0] - scores).max() <= TOLERANCE
    low_res_masks = found["selected_low_res_masks"][0, 0]
    assert np.abs(low_res_masks - logits).max() <= TOLERANCE * np.abs(logits).max()
    for counts, mask in zip(found["masks_rle"][0, 0], expected, strict=True):
        ours = mask_from_rle(counts, mask.shape)
        assert (ours != mask).mean() <= 1e-3


def official(model: CpcSam, pixels: Pixels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks, predicted IoU and logits of SamPredictor."""
    predictor = SamPredictor(model.sam)
    predictor.set_image(np.ascontiguousarray(pixels))
    return predictor.predict(point_coords=POINTS, point_labels=LABELS)


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
