"""What official SamAutomaticMaskGenerator finds is found, on the same weights and grid."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields

import numpy as np
import pytest
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.mask_generator import AutomaticMaskGenerator
from cpcsam.geometry import Box
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from cpcsam.transforms import decode_image
from export.real_images import packaged_images
from tests.support.official_masks import Seen, assert_found
from tests.support.paths import ROOT

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


@pytest.fixture(scope="module")
def model() -> CpcSam:
    return load_base(ROOT / "weights/vit_t")


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """A part of a photograph, 201 × 220."""
    return np.ascontiguousarray(decode_image(packaged_images()[1].read_bytes())[60:261, 180:400])


def test_the_defaults_are_the_official_ones() -> None:
    official = inspect.signature(SamAutomaticMaskGenerator).parameters
    for field in fields(MaskGeneratorConfig):
        assert field.default == official[field.name].default


@pytest.mark.parametrize("config", [LENIENT, CROPPED], ids=["whole", "crops"])
def test_it_finds_what_the_official_generator_finds(
    model: CpcSam, picture: NDArray[np.uint8], config: MaskGeneratorConfig
) -> None:
    expected = SamAutomaticMaskGenerator(model.sam, **asdict(config)).generate(picture)
    found = AutomaticMaskGenerator(TorchBackend(model), config).generate(picture)
    whole = Box(0, 0, *picture.shape[:2])
    assert_found(
        expected,
        [Seen(one.in_region(whole), one.score, one.stability, one.point) for one in found],
    )
