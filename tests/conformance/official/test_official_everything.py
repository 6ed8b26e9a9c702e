"""What official SamAutomaticMaskGenerator finds is found, on the same weights and grid."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator

from cpcsam.automatic.mask_generator import EverythingSettings
from cpcsam.automatic.predictor import segment_everything
from cpcsam.automatic.tiling import Tile
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from cpcsam.transforms import decode_image
from export.real_images import packaged_images
from tests.support.official_masks import Seen, assert_found
from tests.support.paths import ROOT

OFFICIAL_NAMES = {
    "points_per_side": "points_per_side",
    "min_iou": "pred_iou_thresh",
    "min_stability": "stability_score_thresh",
    "stability_offset": "stability_score_offset",
    "max_box_iou": "box_nms_thresh",
    "crop_layers": "crop_n_layers",
    "crop_overlap": "crop_overlap_ratio",
    "crop_points_divisor": "crop_n_points_downscale_factor",
    "max_crop_box_iou": "crop_nms_thresh",
    "min_area": "min_mask_region_area",
}
LENIENT = EverythingSettings(points_per_side=12, min_iou=0.4, min_stability=0.4)
"""The compact base's masks are less stable than those of the large models."""
CROPPED = EverythingSettings(
    points_per_side=8,
    min_iou=0.4,
    min_stability=0.4,
    crop_layers=1,
    crop_points_divisor=2,
    crop_overlap=0.3,
    max_crop_box_iou=0.6,
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
    for field in fields(EverythingSettings):
        assert field.default == official[OFFICIAL_NAMES[field.name]].default


@pytest.mark.parametrize("settings", [LENIENT, CROPPED], ids=["whole", "crops"])
def test_it_finds_what_the_official_generator_finds(
    model: CpcSam, picture: NDArray[np.uint8], settings: EverythingSettings
) -> None:
    given = {theirs: getattr(settings, ours) for ours, theirs in OFFICIAL_NAMES.items()}
    expected = SamAutomaticMaskGenerator(model.sam, **given).generate(picture)
    found = segment_everything(picture, TorchBackend(model), settings)
    whole = Tile(0, 0, *picture.shape[:2])
    assert_found(
        expected, [Seen(one.within(whole), one.score, one.stability, one.click) for one in found]
    )
