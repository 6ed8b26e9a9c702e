"""Image files of every kind give the masks and logits that official SamPredictor gives.

By the steps that Triton runs before and after the graphs, on the same weights.
"""

from __future__ import annotations

import numpy as np
import pytest
from segment_anything import SamPredictor

from cpcsam.automatic.rle import mask_from_rle
from cpcsam.contract import DECODE, MAX_PIXELS, MaskSelection
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from serving.backend.postprocess import postprocess
from serving.backend.preprocess import preprocess, scale_prompts
from serving.backend.step import Request
from tests.support.paths import ROOT
from tests.support.picture_files import Pixels, picture_files

TOLERANCE = 5e-5
FILES = picture_files()
POINTS = np.array([[20.0, 40.0], [25.0, 10.0]], np.float32)
LABELS = np.array([1, 0], np.int32)


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
