from __future__ import annotations

import pytest
import torch

from tests.support.model_factory import noisy_sam
from tests.support.training_factory import tiny_halves, tiny_state
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.step import BilevelConfig, sam_objective
from training.bilevel.train_state import new_bilevel_state


def test_mixed_precision_stays_close_and_its_losses_are_float32() -> None:
    batch = tiny_halves().training
    terms = []
    for bf16 in (False, True):
        state = tiny_state()
        state.forward.bf16 = bf16
        predictions = state.forward(batch)
        assert (predictions.low_res_masks.dtype == torch.bfloat16) == bf16
        terms.append(sam_objective(predictions, batch, BilevelConfig().losses))
    assert terms[1].total.dtype == torch.float32
    assert terms[1].total.item() != terms[0].total.item()
    assert terms[1].total.item() == pytest.approx(terms[0].total.item(), rel=0.02)


def test_new_bilevel_state_in_float64_has_the_weights_of_float32() -> None:
    single, double = (
        new_bilevel_state(
            noisy_sam(), ModelConfig(), OptimizerConfig(), seed=3, bf16=False, dtype=dtype
        )
        for dtype in (torch.float32, torch.float64)
    )
    assert len(double.phi.parameters) > 10
    for name, parameter in double.model.named_parameters():
        assert parameter.dtype == torch.float64, name
        assert torch.equal(parameter.float(), single.model.get_parameter(name)), name
