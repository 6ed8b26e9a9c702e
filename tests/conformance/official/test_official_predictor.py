"""Predictions and automatic masks equal those of the official predictor and generator."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.mask_generator import AutomaticMaskGenerator
from cpcsam.backends.onnx_backend import OnnxGraphs
from cpcsam.backends.protocol import GraphBackend
from cpcsam.contract import IMAGE_ENCODER, MASK_DECODER, PROMPT_ENCODER
from cpcsam.geometry import Box
from cpcsam.images.reading import decode_image
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.fusion import fuse
from cpcsam.model.predictor import CpcSamPredictor
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from export.graphs.traceable import make_traceable
from export.graphs.tracing import onnx_from_torch
from export.real_images import packaged_images
from tests.support.model_factory import windowed_cpcsam
from tests.support.official_masks import Seen, assert_found
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

TOLERANCE = 5e-5
PROMPTS = [
    {"points": [[60, 40]], "labels": [1]},
    {"points": [[60, 40], [20, 70]], "labels": [1, 0]},
    {"box": [20, 15, 90, 60]},
    {"points": [[70, 35], [30, 30]], "labels": [1, 0], "box": [20, 15, 90, 60]},
]

LENIENT = MaskGeneratorConfig(points_per_side=12, pred_iou_thresh=0.4, stability_score_thresh=0.4)
"""The compact base's masks are less stable than those of the large models."""
CROPPED = MaskGeneratorConfig(
    points_per_side=8,
    pred_iou_thresh=0.4,
    stability_score_thresh=0.4,
    crop_n_layers=1,
    crop_n_points_downscale_factor=2,
    crop_overlap_ratio=0.3,
    crop_nms_thresh=0.6,
)


def trained() -> CpcSam:
    """The shipped base."""
    return load_base(ROOT / "weights/vit_t")


def vit_b_at_512() -> CpcSam:
    """The wide encoder with windows, at another image size, two blocks deep, without CaPL."""
    model = windowed_cpcsam(512)
    model.capl = None
    return model


@pytest.fixture(scope="module", params=[trained, vit_b_at_512], ids=lambda make: make.__name__)
def predictors(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SamPredictor, dict[str, CpcSamPredictor]]:
    """Official SamPredictor and ours over torch and ONNX Runtime, with the picture set."""
    model = request.param()
    folder = tmp_path_factory.mktemp("graphs")
    form = make_traceable(fuse(model))
    for graph in (IMAGE_ENCODER, PROMPT_ENCODER, MASK_DECODER):
        onnx_from_torch(form, graph, folder / f"{graph.name}.onnx", {})
    graphs = OnnxGraphs(folder)
    official = SamPredictor(model.sam)
    official.set_image(picture())
    ours = {
        "torch": CpcSamPredictor(TorchBackend(model)),
        "onnx": CpcSamPredictor(GraphBackend(graphs.run, graphs.image_size)),
    }
    for predictor in ours.values():
        predictor.set_image(picture())
    return official, ours


def picture() -> NDArray[np.uint8]:
    """A part of a photograph, 75 × 110."""
    return np.ascontiguousarray(decode_image(packaged_images()[1].read_bytes())[60:135, 180:290])


def arguments_of(prompt: dict[str, list]) -> dict[str, NDArray[np.int64] | None]:
    """Arguments of `predict`."""
    return {
        "point_coords": np.array(prompt["points"]) if "points" in prompt else None,
        "point_labels": np.array(prompt["labels"]) if "labels" in prompt else None,
        "box": np.array(prompt["box"]) if "box" in prompt else None,
    }


def assert_equal_outputs(
    found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], tolerance: float = TOLERANCE
) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: "+".join(prompt))
def test_masks_equal_official_predictor(
    predictors: tuple[SamPredictor, dict[str, CpcSamPredictor]],
    prompt: dict[str, list],
    backend: str,
) -> None:
    official, ours = predictors[0], predictors[1][backend]
    arguments = arguments_of(prompt)
    for multimask in (False, True):
        expected = official.predict(**arguments, multimask_output=multimask, return_logits=True)
        found = ours.predict(**arguments, multimask_output=multimask, return_logits=True)
        assert_equal_outputs(found, expected)
        logits = expected[0]
        masks, _, _ = official.predict(**arguments, multimask_output=multimask)
        found_masks, _, _ = ours.predict(**arguments, multimask_output=multimask)
        on_the_edge = np.abs(logits) <= TOLERANCE * np.abs(logits).max()
        assert np.array_equal(found_masks & ~on_the_edge, masks & ~on_the_edge)
        assert on_the_edge.mean() < 1e-3


def test_predict_with_mask_input_equals_official_predictor(
    predictors: tuple[SamPredictor, dict[str, CpcSamPredictor]],
) -> None:
    official, ours = predictors[0], predictors[1]["torch"]
    arguments = arguments_of(PROMPTS[0])
    _, _, low_res_masks = official.predict(**arguments, multimask_output=False)
    for prompt in (arguments, {}):
        refined = {**prompt, "mask_input": low_res_masks, "return_logits": True}
        assert_equal_outputs(ours.predict(**refined), official.predict(**refined))


def test_predict_torch_equals_official_predictor(
    predictors: tuple[SamPredictor, dict[str, CpcSamPredictor]],
) -> None:
    official, ours = predictors[0], predictors[1]["torch"]
    size = picture().shape[:2]
    boxes = torch.tensor([[20.0, 15.0, 90.0, 60.0], [5.0, 5.0, 40.0, 70.0]])
    points = torch.tensor([[[60.0, 40.0]], [[20.0, 30.0]]])
    arguments = {
        "point_coords": official.transform.apply_coords_torch(points, size),
        "point_labels": torch.ones(2, 1),
        "boxes": official.transform.apply_boxes_torch(boxes, size),
        "return_logits": True,
    }
    for left_out in ((), ("point_coords", "point_labels"), ("boxes",)):
        given = {name: None if name in left_out else arguments[name] for name in arguments}
        expected = [output.numpy() for output in official.predict_torch(**given)]
        assert_equal_outputs([output.numpy() for output in ours.predict_torch(**given)], expected)
    assert_equal_outputs([ours.get_image_embedding()], [official.get_image_embedding().numpy()])


@pytest.fixture(scope="module")
def model() -> CpcSam:
    return load_base(ROOT / "weights/vit_t")


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    """A part of a photograph, 201 × 220."""
    return np.ascontiguousarray(decode_image(packaged_images()[1].read_bytes())[60:261, 180:400])


def test_mask_generator_config_defaults_are_official() -> None:
    official = inspect.signature(SamAutomaticMaskGenerator).parameters
    for field in fields(MaskGeneratorConfig):
        assert field.default == official[field.name].default


@pytest.mark.parametrize("config", [LENIENT, CROPPED], ids=["whole", "crops"])
def test_generate_finds_the_masks_of_the_official_generator(
    model: CpcSam, photograph: NDArray[np.uint8], config: MaskGeneratorConfig
) -> None:
    expected = SamAutomaticMaskGenerator(model.sam, **asdict(config)).generate(photograph)
    found = AutomaticMaskGenerator(TorchBackend(model), config).generate(photograph)
    whole = Box(0, 0, *photograph.shape[:2])
    assert_found(
        expected,
        [Seen(one.in_region(whole), one.score, one.stability, one.point) for one in found],
    )
