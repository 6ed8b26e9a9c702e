"""Losses of the first steps, recorded before all runs shared one trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.scale import Scale
from tests.support.training_factory import tiny_batches, tiny_state
from training.bilevel.config import OptimizerConfig
from training.bilevel.step import BilevelConfig
from training.pretraining.config import PretrainBatchConfig, PretrainConfig
from training.pretraining.data import PretrainBatches
from training.pretraining.train_state import new_pretrain_state

TOLERANCE = 1e-4
SAM_TOTAL = [0.829204, 0.835251, 0.855909]
CAPL_TOTAL = [1.357862, 1.396701, 1.363558]
POINTS_TOTAL = [1.411451, 1.333915, 1.074319]
PRETRAINING = [9.443412, 7.626025, 5.930577]


def test_bilevel_train_step_has_the_golden_losses() -> None:
    optimizer = OptimizerConfig(lr=1e-3, lr_capl=1e-3)
    state, batches = tiny_state(optimizer=optimizer, image_size=256), tiny_batches(steps=3)
    metrics = []
    for step in range(3):
        state.set_learning_rates(optimizer, (step + 0.5) / 3)
        metrics.append(state.train_step(batches[step], BilevelConfig()))
    for name, expected in (
        ("sam_total", SAM_TOTAL),
        ("capl_total", CAPL_TOTAL),
        ("points_total", POINTS_TOTAL),
    ):
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
