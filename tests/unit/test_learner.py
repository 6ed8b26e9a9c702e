from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cpcsam.errors import ArtifactError, ConfigError, TrainingError
from cpcsam.model.lora import LoraConfig
from tests.training_factory import tiny_halves, tiny_learner
from training.bilevel import BilevelConfig, bilevel_step
from training.learner import Learner, ModelConfig, OptimizerConfig, schedule


def step(learner: Learner) -> None:
    bilevel_step(learner.forward, learner.theta, learner.phi, tiny_halves(), BilevelConfig())
    learner.step += 1


def test_schedule_rises_and_falls() -> None:
    config = OptimizerConfig(warmup=0.2, final=0.1)
    assert schedule(config, 0.1) == pytest.approx(0.5)
    assert schedule(config, 0.2) == pytest.approx(1.0)
    assert schedule(config, 0.6) == pytest.approx(0.55)
    assert schedule(config, 1.0) == pytest.approx(0.1)
    assert schedule(OptimizerConfig(warmup=0.0), 0.0) == 1.0


def test_learning_rates_are_separate() -> None:
    config = OptimizerConfig(lr=1e-3, lr_capl=2e-3, warmup=0.5)
    learner = tiny_learner(optimizer=config)
    assert learner.set_learning_rates(config, 0.25) == pytest.approx(0.5)
    for group, expected in ((learner.theta, 5e-4), (learner.phi, 1e-3)):
        rates = [parameters["lr"] for parameters in group.optimizer.param_groups]
        assert rates == pytest.approx([expected, expected])


def test_only_matrices_decay() -> None:
    learner = tiny_learner()
    for group in (learner.theta, learner.phi):
        for parameters in group.optimizer.param_groups:
            for parameter in parameters["params"]:
                assert parameters["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_theta_and_phi_are_what_the_configuration_names() -> None:
    learner = tiny_learner(ModelConfig(unfreeze=("iou_token",)))
    assert set(learner.phi.parameters) == {
        name for name, _ in learner.model.named_parameters() if name.startswith("capl.")
    }
    plain = {name for name in learner.theta.parameters if ".lora_" not in name}
    assert plain == {"sam.mask_decoder.iou_token.weight"}
    assert len(learner.theta.parameters) > 10
    frozen = [
        p
        for n, p in learner.model.named_parameters()
        if n not in learner.theta.parameters and n not in learner.phi.parameters
    ]
    assert frozen and not any(parameter.requires_grad for parameter in frozen)


def test_wrong_parts_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.unfreeze: got mask_token, expected transformer"):
        tiny_learner(ModelConfig(unfreeze=("mask_token",)))
    with pytest.raises(TrainingError, match="something that learns"):
        tiny_learner(ModelConfig(lora=LoraConfig(rank=0), capl=None, unfreeze=()))


@pytest.mark.parametrize("name", ["lr", "lr_capl", "clip_norm", "warmup", "final", "weight_decay"])
def test_optimizer_values_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{name}"):
        OptimizerConfig(**{name: -1.0})


def test_saved_state_continues_exactly(tmp_path: Path) -> None:
    path, record = tmp_path / "last.pt", {"seed": 0, "model": {"unfreeze": ["iou_token"]}}
    learner = tiny_learner()
    step(learner)
    learner.elapsed_s, learner.base_dice, learner.best_dice = 2.5, 0.25, 0.5
    learner.save(path, record)
    step(learner)
    resumed = tiny_learner()
    resumed.restore(path, record)
    assert (resumed.step, resumed.elapsed_s) == (1, 2.5)
    assert (resumed.base_dice, resumed.best_dice) == (0.25, 0.5)
    step(resumed)
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_another_configuration_is_refused_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    learner = tiny_learner()
    learner.save(path, {"optimizer": {"lr": 0.1}})
    with pytest.raises(ConfigError, match=r"optimizer\.lr: got 0\.2, expected 0\.1"):
        learner.restore(path, {"optimizer": {"lr": 0.2}})


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_a_damaged_state_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="unreadable file"):
        tiny_learner().restore(path, {})
