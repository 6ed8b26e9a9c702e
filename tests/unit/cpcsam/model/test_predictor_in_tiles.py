"""Prompts answered in tiles of an image that is larger than the model's window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cpcsam import CpcSamPredictor
from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.model import tiled_image
from cpcsam.model.tiled_image import TiledImage
from cpcsam.scale import Scale
from tests.support.tiny_models import BrightnessModel

WINDOW = Scale(64)
TILE = Box(88, 43, 152, 107)
CLICK: dict[str, Any] = {"point_coords": [[70, 110]], "point_labels": [1]}
ENTITY = (slice(100, 124), slice(60, 84))


class CountingModel(BrightnessModel):
    encoded = 0

    def encode(self, image: np.ndarray, input_size: np.ndarray) -> np.ndarray:
        self.encoded += 1
        return super().encode(image, input_size)


def picture() -> np.ndarray:
    """A bright square of 24 pixels in the middle of `TILE`, and one of 160 beside it."""
    image = np.zeros((240, 320, 3), np.uint8)
    image[ENTITY] = 255
    image[40:200, 140:300] = 255
    return image


@pytest.fixture
def predictor() -> CpcSamPredictor:
    windowed = CpcSamPredictor(CountingModel(), WINDOW)
    windowed.set_image(picture())
    return windowed


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    return float((mask & other).sum() / (mask | other).sum())


def test_predict_larger_image_answers_in_the_tile_around_the_click(
    predictor: CpcSamPredictor,
) -> None:
    masks, scores, low_res_masks = predictor.predict(**CLICK)
    assert predictor.tile == TILE and predictor.input_size is None
    assert masks.shape == (3, 240, 320) and scores.shape == (3,)
    expected = np.zeros((240, 320), bool)
    expected[ENTITY] = True
    assert all(iou(mask, expected) > 0.9 for mask in masks)

    alone = CpcSamPredictor(BrightnessModel())
    alone.set_image(np.ascontiguousarray(TILE.crop(picture())))
    (mask, *_), _, logits = alone.predict([[27, 22]], [1])
    assert np.array_equal(masks[0][TILE.slices], mask) and masks[0].sum() == mask.sum()
    assert np.array_equal(low_res_masks, logits)


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": [140, 40, 300, 200]},
        {"point_coords": [[200, 100]], "point_labels": [1]},  # smaller tiles cut its mask
    ],
)
def test_predict_larger_entity_is_answered_in_a_larger_tile(
    predictor: CpcSamPredictor, prompt: dict[str, Any]
) -> None:
    masks, _, _ = predictor.predict(**prompt)
    assert predictor.tile == Box(0, 64, 240, 320)
    expected = np.zeros((240, 320), bool)
    expected[40:200, 140:300] = True
    assert all(iou(mask, expected) > 0.95 for mask in masks)


def test_predict_prompt_that_no_tile_holds_is_answered_in_the_whole_image(
    predictor: CpcSamPredictor,
) -> None:
    whole = CpcSamPredictor(BrightnessModel())
    whole.set_image(picture())
    prompt = {"point_coords": [[70, 110], [310, 20]], "point_labels": [1, 0]}
    masks, _, _ = predictor.predict(**prompt)
    assert predictor.tile == Box(0, 0, 240, 320)
    assert np.array_equal(masks, whole.predict(**prompt)[0]) and masks.any()


def test_predict_logits_are_infinite_outside_of_the_tile(predictor: CpcSamPredictor) -> None:
    logits = predictor.predict(**CLICK, return_logits=True)[0]
    outside = np.ones(logits.shape[1:], bool)
    outside[TILE.slices] = False
    assert (logits[:, outside] == -np.inf).all() and np.isfinite(logits[:, ~outside]).all()


def test_predict_mask_input_is_answered_in_its_own_tile(predictor: CpcSamPredictor) -> None:
    low_res_masks = predictor.predict(**CLICK)[2]
    masks = predictor.predict([[106, 150]], [1], mask_input=low_res_masks[:1])[0]
    assert predictor.tile == TILE and masks.shape == (3, 240, 320)
    with pytest.raises(ContractError, match=r"mask_input: got a prompt outside of \(43, 88, 107"):
        predictor.predict([[200, 110]], [1], mask_input=low_res_masks[:1])


def test_predict_embeds_each_tile_once(predictor: CpcSamPredictor) -> None:
    assert predictor.backend.encoded == 0
    for _ in range(2):
        predictor.predict(**CLICK)
    assert predictor.backend.encoded == 1


def test_calls_in_the_frame_of_the_whole_image_are_refused_in_tiles(
    predictor: CpcSamPredictor,
) -> None:
    for call in (
        predictor.get_image_embedding,
        lambda: predictor.predict_torch(torch.ones(1, 1, 2), torch.ones(1, 1)),
    ):
        with pytest.raises(ContractError, match="got an image in tiles of 64 pixels, expected a w"):
            call()


@pytest.mark.parametrize(
    ("scale", "tile_size"), [(WINDOW, 0), (WINDOW, 320), (Scale(320), None), (Scale(), None)]
)
def test_set_image_whole_equals_a_model_without_a_scale(
    scale: Scale, tile_size: int | None
) -> None:
    predictor, plain = CpcSamPredictor(BrightnessModel(), scale), CpcSamPredictor(BrightnessModel())
    predictor.set_image(picture(), tile_size=tile_size)
    plain.set_image(picture())
    assert predictor.input_size == plain.input_size == (192, 256)
    for mine, theirs in zip(predictor.predict(**CLICK), plain.predict(**CLICK), strict=True):
        assert np.array_equal(mine, theirs)


def test_set_image_tile_size_precedes_the_window() -> None:
    predictor = CpcSamPredictor(BrightnessModel(), Scale())
    predictor.set_image(picture(), tile_size=64)
    predictor.predict(**CLICK)
    assert predictor.tile == TILE


def test_tiled_image_keeps_the_latest_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_image, "KEPT_TILES", 2)
    model = CountingModel()
    image = TiledImage(picture(), 64, model)
    first, second, third = (Box(0, left, 64, left + 64) for left in (0, 64, 128))
    for tile in (first, second, third, second, third):
        image.embed(tile)
    assert model.encoded == 3
    image.embed(first)
    assert model.encoded == 4
