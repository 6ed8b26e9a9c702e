"""The shipped base is what its manifest says, and finds real nuclei by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.automatic.vocabulary import build_vocabulary
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.torch_backend import TorchBackend
from demo.scene import load_scene
from tests.support.paths import ROOT
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import ENTITY, Sample, windows
from training.evaluate_auto import evaluate_auto
from training.evaluation.one_click import OneClickScores, one_click
from training.evaluation.torch_model import examples_of, open_model, support_set

pytestmark = pytest.mark.slow

BASE = ROOT / "weights/vit_t"
PATCH = 48
"""Side in pixels of half the resolution."""
MAX_BYTES = 17_000_000
MIN_DICE = 0.80

MAX_SIDE = 320
MIN_AUTO_DICE = 0.75
MIN_AP50 = 0.4


@pytest.fixture(scope="module")
def training(bbbc038: Path) -> Sequence[Sample]:
    """The images that the base was trained on."""
    return read_bbbc038(bbbc038, bbbc038 / "train.txt")


@pytest.fixture(scope="module")
def held_out(bbbc038: Path) -> Sequence[Sample]:
    """The validation images."""
    return read_bbbc038(bbbc038, bbbc038 / "val.txt")


def test_shipped_base_weights_are_small_and_half_precision() -> None:
    manifest = read_manifest(BASE, "checkpoint")
    assert (BASE / "model.safetensors").stat().st_size <= MAX_BYTES
    with safe_open(BASE / "model.safetensors", "np") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}
    assert manifest.config["model_size"] == "vit_t"
    assert manifest.config["train_fingerprints"]


def test_shipped_base_one_click_dice_equals_manifest(held_out: Sequence[Sample]) -> None:
    cuts = [cut for sample in held_out for cut in windows(sample, 128)]
    scores = OneClickScores.of(list(one_click(load_base(BASE), cuts)))
    stated = read_manifest(BASE, "checkpoint").metrics["one_click"]
    assert scores.entities == stated["entities"]
    assert scores.dice >= MIN_DICE
    assert scores.dice == pytest.approx(stated["dice"], abs=0.002)
    assert scores.iou_correlation == pytest.approx(stated["iou_correlation"], abs=0.01)
    assert scores.iou_correlation > 0.3


def test_demo_image_has_no_patch_of_a_training_image(training: Sequence[Sample]) -> None:
    """No patch of the demo's image correlates with any place of any training image."""
    demo = load_scene(BASE).held_out
    patches = [grey(window)[:PATCH, :PATCH] for window in windows(demo, 128)]
    assert highest_correlation(grey(demo), patches) > 0.999
    shown = [grey(sample) for sample in training]
    assert max(highest_correlation(image, patches) for image in shown) < 0.9


def grey(sample: Sample) -> np.ndarray:
    """The image in grey, at half the resolution."""
    height, width = (side // 2 for side in sample.instances.shape)
    image = sample.image[: 2 * height, : 2 * width].mean(axis=2)
    return image.reshape(height, 2, width, 2).mean(axis=(1, 3))


def highest_correlation(image: np.ndarray, patches: Sequence[np.ndarray]) -> float:
    """Normalized cross-correlation of the patches at the best place; -1 in a smaller image."""
    if min(image.shape) < PATCH:
        return -1.0
    unit = [patch - patch.mean() for patch in patches]
    unit = [patch / np.linalg.norm(patch) for patch in unit]
    spectrum = np.fft.rfft2(image)
    kernels = np.fft.rfft2(np.array(unit), image.shape).conj()
    products = np.fft.irfft2(spectrum * kernels, image.shape)
    products = products[:, : 1 - PATCH, : 1 - PATCH]
    places = sliding_window_sums(np.stack([image, image**2]))
    norms = np.sqrt(np.maximum(places[1] - places[0] ** 2 / PATCH**2, 1e-6))
    return float((products / norms).max())


def sliding_window_sums(values: np.ndarray) -> np.ndarray:
    """Sums over all patches of the last two dimensions (summed-area table)."""
    table = np.pad(values, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    ends, begins = slice(PATCH, None), slice(None, -PATCH)
    return (
        table[:, ends, ends]
        - table[:, begins, ends]
        - table[:, ends, begins]
        + table[:, begins, begins]
    )


def test_evaluate_auto_on_real_nuclei_reaches_dice_and_ap50(
    training: Sequence[Sample], held_out: Sequence[Sample]
) -> None:
    model, digest = open_model(ROOT / "weights/vit_t", None)
    backend = TorchBackend(model)
    support = support_set(training, 0.1, seed=0)
    examples = examples_of(support, (ENTITY,), backend, tile=128, max_tiles=6)
    vocabulary = build_vocabulary((ENTITY,), examples, model=digest, tile=128)
    small = [sample for sample in held_out if max(sample.instances.shape) <= MAX_SIDE]
    scores = evaluate_auto(backend, vocabulary, small[::6])
    assert scores["images"] >= 4
    assert scores["dice"] >= MIN_AUTO_DICE
    assert scores["ap50"] >= MIN_AP50
