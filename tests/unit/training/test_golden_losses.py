"""Losses of the first steps, recorded before all runs shared one trainer.

Those of points, and what follows from them at the third step, are from when practice prompts got a
share of accurate ones, which draws them anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from cpcsam.model.capl import FULL_CAPL
from cpcsam.scale import Scale
from tests.support.training_factory import tiny_batches, tiny_state
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.step import BilevelConfig
from training.pretraining.config import PretrainBatchConfig, PretrainConfig
from training.pretraining.data import PretrainBatches
from training.pretraining.train_state import new_pretrain_state

PointForm = Literal["gated", "offset"]
TOLERANCE = 1e-4
BILEVEL: dict[PointForm, dict[str, list[float]]] = {
    "offset": {
        "sam_total": [0.829204, 0.835266, 0.855849],
        "capl_total": [1.357862, 1.396781, 1.363193],
        "points_total": [0.976448, 0.920679, 0.684022],
    },
    "gated": {
        "sam_total": [0.829236, 0.835388, 0.855998],
        "capl_total": [1.357862, 1.394986, 1.362611],
        "points_total": [2.146905, 1.985658, 1.916875],
    },
}
PRETRAINING = [9.443412, 7.626025, 5.930577]


@pytest.mark.parametrize("form", BILEVEL)
def test_bilevel_train_step_has_the_golden_losses(form: PointForm) -> None:
    optimizer = OptimizerConfig(lr=1e-3, lr_capl=1e-3)
    config = ModelConfig(capl=replace(FULL_CAPL, point_form=form))
    state, batches = tiny_state(config, optimizer, image_size=256), tiny_batches(steps=3)
    metrics = []
    for step in range(3):
        state.set_learning_rates(optimizer, (step + 0.5) / 3)
        metrics.append(state.train_step(batches[step], BilevelConfig()))
    for name, expected in BILEVEL[form].items():
        assert [row[name] for row in metrics] == pytest.approx(expected, rel=TOLERANCE), name


def test_pretraining_train_step_has_the_golden_losses(tmp_path: Path) -> None:
    batch = PretrainBatchConfig(images=1, prompts=2, synthetic_scenes=2, scale=Scale(160, 1.6))
    config = PretrainConfig(
        run=tmp_path,
        steps=3,
        warmup_steps=1,
        correction_every=2,
        auxiliary_steps=2,
        precision="float32",
        batch=batch,
    )
    state = new_pretrain_state(config)
    batches = PretrainBatches([], state.model.image_size, batch, seed=0, steps=3)
    losses = [state.train_step(batches[step], config)["loss"] for step in range(3)]
    assert losses == pytest.approx(PRETRAINING, rel=TOLERANCE)
