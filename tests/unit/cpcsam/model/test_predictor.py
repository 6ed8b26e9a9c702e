from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cpcsam
from cpcsam import CpcSamPredictor
from cpcsam.errors import ArtifactError, ContractError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.fusion import fuse
from cpcsam.model.lora import LoraConfig
from cpcsam.model.run_checkpoint import load_merged, save_merged, save_run
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from cpcsam.scale import SCALE, Scale
from tests.support.model_factory import noisy_cpcsam
from tests.support.paths import ROOT
from tests.support.tiny_models import BrightnessModel, publish_tiny_graphs

BASE = ROOT / "weights/vit_t"


def square(size: tuple[int, int] = (128, 96)) -> np.ndarray:
    """A bright square of 32 pixels on black, its corner at (X, Y) = (32, 64)."""
    image = np.zeros((*size, 3), np.uint8)
    image[64:96, 32:64] = 255
    return image


def same_masks(first: CpcSamPredictor, second: CpcSamPredictor) -> bool:
    prompt = {"point_coords": [[40, 70]], "point_labels": [1], "return_logits": True}
    outputs = []
    for predictor in (first, second):
        predictor.set_image(square())
        outputs.append(predictor.predict(**prompt)[0])
    return bool(np.abs(outputs[0] - outputs[1]).max() <= 1e-4 * np.abs(outputs[1]).max())


@pytest.mark.parametrize("multimask", [False, True])
def test_predict_one_click_returns_masks_of_the_images_size(multimask: bool) -> None:
    predictor = CpcSamPredictor(BrightnessModel())
    predictor.set_image(square())
    masks, scores, low_res_masks = predictor.predict([[40, 70]], [1], multimask_output=multimask)
    count = 3 if multimask else 1
    assert masks.shape == (count, 128, 96) and masks.dtype == bool
    assert scores.shape == (count,) and low_res_masks.shape == (count, 64, 64)
    expected = square()[..., 0] > 0
    for mask in masks:
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_set_image_accepts_path_pillow_image_and_array(tmp_path: Path) -> None:
    file = tmp_path / "square.png"
    Image.fromarray(square()).save(file)
    embeddings = []
    predictor = CpcSamPredictor(BrightnessModel())
    for image in (square(), Image.fromarray(square()), file, str(file)):
        predictor.set_image(image)
        assert predictor.original_size == (128, 96) and predictor.input_size == (256, 192)
        embeddings.append(predictor.get_image_embedding())
    assert all(np.array_equal(one, embeddings[0]) for one in embeddings)


class RedModel(BrightnessModel):
    """Sees the first channel alone."""

    def encode(self, image: np.ndarray, input_size: np.ndarray) -> np.ndarray:
        return super().encode(image[:, :1], input_size)


def test_set_image_takes_arrays_of_opencv() -> None:
    predictor, red = CpcSamPredictor(RedModel()), square()
    red[:, :, 1:] = 0
    embeddings = []
    for image, order in ((red, "RGB"), (red[:, :, ::-1], "BGR"), (red, "BGR")):
        predictor.set_image(image, image_format=order)
        embeddings.append(predictor.get_image_embedding())
    assert np.array_equal(embeddings[0], embeddings[1])
    assert not np.array_equal(embeddings[0], embeddings[2])
    with pytest.raises(ContractError, match="image_format: got 'HSV', expected RGB or BGR"):
        predictor.set_image(red, image_format="HSV")


def test_predict_takes_a_batch_of_one_box_as_segment_anything_does() -> None:
    predictor, box = CpcSamPredictor(BrightnessModel()), np.array([32, 64, 64, 96])
    predictor.set_image(square())
    one, batch = (predictor.predict(box=each, return_logits=True)[0] for each in (box, box[None]))
    assert np.array_equal(one, batch)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_set_image_other_array_raises_contract_error(image: np.ndarray) -> None:
    with pytest.raises(ContractError, match="image: got"):
        CpcSamPredictor(BrightnessModel()).set_image(image)


def test_predict_without_image_raises_contract_error() -> None:
    predictor = CpcSamPredictor(BrightnessModel())
    predictor.set_image(square())
    predictor.reset_image()
    assert not predictor.is_image_set
    for ask in (lambda: predictor.predict([[1, 2]], [1]), predictor.get_image_embedding):
        with pytest.raises(ContractError, match="call set_image first"):
            ask()


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ({"point_coords": [1, 2], "point_labels": [1]}, "point_coords"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, "point_labels"),
        ({"point_coords": [[1, 2]]}, "point_labels"),
        ({"box": [[1, 2, 3, 4]] * 2}, "box"),
        ({"box": [1, 2, 3]}, "box"),
        ({"mask_input": np.zeros((64, 64))}, "mask_input"),
    ],
)
def test_predict_misshapen_prompt_raises_contract_error(prompt: dict[str, Any], named: str) -> None:
    predictor = CpcSamPredictor(BrightnessModel())
    predictor.set_image(square())
    with pytest.raises(ContractError, match=f"{named}: got"):
        predictor.predict(**prompt)


def test_predict_torch_without_prompt_raises_contract_error() -> None:
    predictor = CpcSamPredictor(BrightnessModel())
    predictor.set_image(square())
    with pytest.raises(ContractError, match="no prompt"):
        predictor.predict_torch(None, None)


def test_predict_torch_batch_equals_single_prompts() -> None:
    predictor = CpcSamPredictor(TorchBackend(noisy_cpcsam()))
    predictor.set_image(square((256, 256)))
    coords = torch.tensor([[[40.0, 70.0]], [[120.0, 200.0]]])
    masks, scores, low_res = predictor.predict_torch(coords, torch.ones(2, 1), return_logits=True)
    assert masks.shape == (2, 3, 256, 256) and scores.shape == (2, 3)
    for index in range(2):
        alone = predictor.predict(coords[index].numpy(), [1], return_logits=True)
        for batched, single in zip((masks, scores, low_res), alone, strict=True):
            assert np.allclose(batched[index].numpy(), single, atol=1e-4)


def test_capl_model_predictor_calibrates_prompts() -> None:
    model = noisy_cpcsam()
    calibrated, plain = (TorchBackend(one) for one in (model, CpcSam(model.sam)))
    assert not same_masks(CpcSamPredictor(calibrated), CpcSamPredictor(plain))


def test_from_pretrained_loads_base_run_and_merged_model(tmp_path: Path) -> None:
    base = CpcSamPredictor.from_pretrained(BASE)
    assert same_masks(base, CpcSamPredictor(TorchBackend(load_base(BASE))))
    run = tmp_path / "run"
    declared = {SCALE: Scale(1000).record()}
    save_run(load_base(BASE), run, base=BASE, lora=LoraConfig(rank=0), config=declared)
    assert CpcSamPredictor.from_pretrained(run).scale == Scale(1000) and base.scale is None
    assert same_masks(CpcSamPredictor.from_pretrained(run), base)
    assert same_masks(CpcSamPredictor.from_pretrained(str(run), base=BASE), base)
    save_merged(fuse(noisy_cpcsam()), tmp_path / "merged", parents={})
    merged = CpcSamPredictor(TorchBackend(load_merged(tmp_path / "merged")))
    assert same_masks(CpcSamPredictor.from_pretrained(tmp_path / "merged"), merged)


def test_from_pretrained_onnx_artifact_predicts_in_onnx_runtime(tmp_path: Path) -> None:
    publish_tiny_graphs(tmp_path / "onnx")
    predictor = CpcSamPredictor.from_pretrained(tmp_path / "onnx")
    predictor.set_image(square())
    masks, _, low_res_masks = predictor.predict([[40, 70]], [1])
    assert masks.shape == (3, 128, 96)
    refined = predictor.predict([[40, 70]], [1], mask_input=low_res_masks[:1])[2]
    assert not np.allclose(refined, low_res_masks)


def test_from_pretrained_missing_path_raises_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        CpcSamPredictor.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="no manifest"):
        CpcSamPredictor.from_pretrained(tmp_path)


def test_package_lists_what_it_exports() -> None:
    assert set(cpcsam.__all__) <= set(dir(cpcsam))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = cpcsam.nothing_here


def test_predict_tells_the_calibrated_prompt_and_can_do_without() -> None:
    predictor = CpcSamPredictor(TorchBackend(fuse(noisy_cpcsam())))
    predictor.set_image(square())
    prompt: dict[str, Any] = {
        "point_coords": [[40, 70]],
        "point_labels": [0],
        "box": (20, 50, 70, 99),
    }
    _, calibrated, _ = predictor.predict(**prompt)
    assert predictor.calibrated_prompt is not None
    points, box = predictor.calibrated_prompt
    assert points.tolist() == [[40, 70]], "further clicks stay"
    assert box is not None and np.abs(box - (20, 50, 70, 99)).max() > 1
    _, given, _ = predictor.predict(**prompt, calibrate=False)
    points, box = predictor.calibrated_prompt
    assert points.tolist() == [[40, 70]] and box is not None and box.tolist() == [20, 50, 70, 99]
    assert np.abs(given - calibrated).max() > 1e-3
    predictor.reset_image()
    assert predictor.calibrated_prompt is None


def test_predict_without_calibration_of_a_model_merged_without_switch_raises() -> None:
    model = fuse(noisy_cpcsam())
    model.given_no_mask_embed = None
    predictor = CpcSamPredictor(TorchBackend(model))
    predictor.set_image(square())
    predictor.predict([[40, 70]], [1])
    assert predictor.calibrated_prompt is None
    with pytest.raises(ContractError, match="calibrate: got False for a model without a switch"):
        predictor.predict([[40, 70]], [1], calibrate=False)
