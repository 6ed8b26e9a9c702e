"""The shipped base is what its manifest and the documentation say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from skimage.feature import match_template

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.model.base_checkpoint import load_base
from demo.scene import load_scene
from tests.support.paths import ROOT
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import Sample, windows
from training.evaluation.one_click import OneClickScores, one_click

pytestmark = pytest.mark.slow

BASE = ROOT / "weights/vit_t"
PATCH = 96
MAX_BYTES = 17_000_000
MIN_DICE = 0.80


def test_shipped_base_weights_are_small_and_half_precision() -> None:
    manifest = read_manifest(BASE, "checkpoint")
    assert (BASE / "model.safetensors").stat().st_size <= MAX_BYTES
    with safe_open(BASE / "model.safetensors", "np") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}
    assert manifest.config["model_size"] == "vit_t"
    assert manifest.config["train_fingerprints"]


def test_shipped_base_one_click_dice_equals_manifest(bbbc038: Path) -> None:
    samples = read_bbbc038(bbbc038, bbbc038 / "val.txt")
    cuts = [cut for sample in samples for cut in windows(sample, 128)]
    scores = OneClickScores.of(list(one_click(load_base(BASE), cuts)))
    stated = read_manifest(BASE, "checkpoint").metrics["one_click"]
    assert scores.entities == stated["entities"]
    assert scores.dice >= MIN_DICE
    assert scores.dice == pytest.approx(stated["dice"], abs=0.002)
    assert scores.iou_correlation == pytest.approx(stated["iou_correlation"], abs=0.01)
    assert scores.iou_correlation > 0.3


def test_demo_image_has_no_patch_of_a_training_image(bbbc038: Path) -> None:
    """No patch of the demo's image correlates with any place of any training image."""
    held_out = load_scene(BASE).held_out
    patches = [grey(window)[:PATCH, :PATCH] for window in windows(held_out, 128)]
    highest = 0.0
    for sample in read_bbbc038(bbbc038, bbbc038 / "train.txt"):
        shown = grey(sample)
        if min(shown.shape) >= PATCH:
            highest = max(highest, *(match_template(shown, patch).max() for patch in patches))
    assert highest < 0.9


def grey(sample: Sample) -> np.ndarray:
    return sample.image.mean(axis=2)
