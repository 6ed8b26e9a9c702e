"""The exported graphs answer what official SamPredictor answers on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from torch import Tensor

from cpcsam.contract import IMAGE_ENCODER, MASK_DECODER, PROMPT_ENCODER
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from cpcsam.transforms import (
    decode_image,
    input_size_of,
    pad_image,
    resize_coords,
    resize_image,
    upscale_masks,
)
from export.accuracy.runners import OnnxRunner
from export.graphs.traceable import make_traceable
from export.graphs.tracing import onnx_from_torch
from export.real_images import packaged_images
from tests.support.model_factory import windowed_cpcsam
from tests.support.paths import ROOT

TOLERANCE = 5e-5
PROMPTS = [
    {"points": [[60, 40]], "labels": [1]},
    {"points": [[60, 40], [20, 70]], "labels": [1, 0]},
    {"box": [20, 15, 90, 60]},
    {"points": [[70, 35], [30, 30]], "labels": [1, 0], "box": [20, 15, 90, 60]},
]


def trained() -> CpcSam:
    """The shipped base."""
    return load_base(ROOT / "weights/vit_t")


def vit_b_at_1024() -> CpcSam:
    """The wide encoder with windows and 4096 tokens, two blocks deep, without CaPL."""
    model = windowed_cpcsam(1024)
    model.capl = None
    return model


@pytest.fixture(scope="module", params=[trained, vit_b_at_1024], ids=lambda make: make.__name__)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SamPredictor, OnnxRunner]:
    """Official SamPredictor with the picture set, and the graphs of the same weights."""
    model = request.param()
    folder = tmp_path_factory.mktemp("graphs")
    form = make_traceable(fuse(model))
    for graph in (IMAGE_ENCODER, PROMPT_ENCODER, MASK_DECODER):
        onnx_from_torch(form, graph, folder / f"{graph.name}.onnx", {})
    predictor = SamPredictor(model.sam)
    predictor.set_image(picture())
    return predictor, OnnxRunner(folder, "fp32")


def picture() -> NDArray[np.uint8]:
    """A part of a photograph, 75 × 110."""
    return np.ascontiguousarray(decode_image(packaged_images()[1].read_bytes())[60:135, 180:290])


def slots(prompt: dict[str, list]) -> tuple[NDArray[np.float32], list[int]]:
    """A prompt's points and box corners, and one empty slot."""
    points = [*prompt.get("points", []), *np.reshape(prompt.get("box", []), (-1, 2)).tolist()]
    labels = [*prompt.get("labels", []), *([2, 3] if "box" in prompt else [])]
    return np.array([*points, [0, 0]], np.float32), [*labels, -1]


def by_graphs(
    runner: OnnxRunner, size: int, image: NDArray[np.uint8], prompt: dict[str, list]
) -> tuple[NDArray[np.float32], Tensor]:
    """Logits (4, H, W) in the original image, and the predicted IoU (4,)."""
    original = image.shape[:2]
    input_size = input_size_of(original, size)
    [embeddings] = runner(
        IMAGE_ENCODER,
        {
            "image": torch.from_numpy(pad_image(resize_image(image, size), size))[None],
            "input_size": torch.tensor([input_size], dtype=torch.int32),
        },
    )
    coords, labels = slots(prompt)
    tensors = {
        "image_embeddings": embeddings,
        "point_coords": torch.from_numpy(resize_coords(coords, original, size))[None, None],
        "point_labels": torch.tensor([[labels]], dtype=torch.int32),
    }
    tensors |= dict(zip(PROMPT_ENCODER.output_names, runner(PROMPT_ENCODER, tensors), strict=True))
    masks, iou = runner(MASK_DECODER, tensors)
    return upscale_masks(masks[0, 0].numpy(), input_size, original, size), iou[0, 0]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: "+".join(prompt))
def test_masks_equal_official_predictor(
    both: tuple[SamPredictor, OnnxRunner], prompt: dict[str, list]
) -> None:
    predictor, runner = both
    image_size = predictor.model.image_encoder.img_size
    found, found_iou = by_graphs(runner, image_size, picture(), prompt)
    arguments = {
        "point_coords": np.array(prompt["points"]) if "points" in prompt else None,
        "point_labels": np.array(prompt["labels"]) if "labels" in prompt else None,
        "box": np.array(prompt["box"]) if "box" in prompt else None,
    }
    for multimask, ours in ((False, slice(0, 1)), (True, slice(1, None))):
        logits, iou, _ = predictor.predict(
            **arguments, multimask_output=multimask, return_logits=True
        )
        largest = np.abs(logits).max()
        assert np.abs(found[ours] - logits).max() <= TOLERANCE * largest
        assert np.abs(found_iou[ours].numpy() - iou).max() <= TOLERANCE * np.abs(iou).max()
        masks, _, _ = predictor.predict(**arguments, multimask_output=multimask)
        on_the_edge = np.abs(logits) <= TOLERANCE * largest
        assert np.array_equal((found[ours] > 0) & ~on_the_edge, masks & ~on_the_edge)
        assert on_the_edge.mean() < 1e-3
