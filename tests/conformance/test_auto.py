"""The shipped base finds real nuclei by itself, prompted by a vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.automatic.vocabulary import build_vocabulary
from cpcsam.model.torch_backend import TorchBackend
from tests.support.paths import ROOT
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import ENTITY
from training.evaluate_auto import evaluate_auto
from training.evaluation.torch_model import examples_of, open_model, support_set

pytestmark = pytest.mark.slow

MAX_SIDE = 320
MIN_DICE = 0.75
MIN_AP50 = 0.4


def test_evaluate_auto_on_real_nuclei_reaches_dice_and_ap50(bbbc038: Path) -> None:
    model, digest = open_model(ROOT / "weights/vit_t", None)
    backend = TorchBackend(model)
    support = support_set(read_bbbc038(bbbc038, bbbc038 / "train.txt"), 0.1, seed=0)
    examples = examples_of(support, (ENTITY,), backend, tile=128, max_tiles=6)
    vocabulary = build_vocabulary((ENTITY,), examples, model=digest, tile=128)
    held_out = read_bbbc038(bbbc038, bbbc038 / "val.txt")
    small = [sample for sample in held_out if max(sample.instances.shape) <= MAX_SIDE]
    scores = evaluate_auto(backend, vocabulary, small[::6])
    assert scores["images"] >= 4
    assert scores["dice"] >= MIN_DICE
    assert scores["ap50"] >= MIN_AP50
