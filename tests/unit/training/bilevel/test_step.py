from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cpcsam.config import from_dict, read_yaml
from cpcsam.errors import ConfigError, TrainingError
from cpcsam.model.capl import FULL_CAPL
from cpcsam.model.lora import LoraConfig
from tests.support.paths import ROOT
from tests.support.training_factory import MINIATURE, tiny_halves, tiny_state
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.step import (
    BilevelConfig,
    capl_objective,
    frozen,
    sam_objective,
    unroll,
)
from training.bilevel.train_state import BilevelState

CONFIGS = ROOT / "training/configs"
CONFIG = BilevelConfig()
UNROLL_LR = 0.1
EPS = 1e-7


def snapshot(state: BilevelState) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in state.model.named_parameters()}


def changed(state: BilevelState, before: dict[str, Tensor]) -> set[str]:
    now = state.model.named_parameters()
    return {name for name, parameter in now if not torch.equal(parameter, before[name])}


def capl_gradients(state: BilevelState) -> dict[str, Tensor]:
    batch = tiny_halves().held_out
    loss = capl_objective(state.forward(batch), batch, CONFIG.losses).total
    names = list(state.phi.parameters)
    values = torch.autograd.grad(
        loss, [state.phi.parameters[name] for name in names], materialize_grads=True
    )
    return dict(zip(names, values, strict=True))


def test_capl_learns_from_step_0_and_its_random_side_once_the_zero_side_moved() -> None:
    state = tiny_state()
    sites = [f"capl.entity.sites.{site}" for site in range(5)]
    first = capl_gradients(state)
    assert first["capl.task.sparse.2.weight"].abs().max() > 0
    assert first["capl.task.dense.2.weight"].abs().max() > 0
    for site in sites:
        assert first[f"{site}.token_mlp.2.weight"].abs().max() > 0, site
        assert first[f"{site}.image_proj.weight"].abs().max() == 0, site
    state.train_step(tiny_halves(), CONFIG)
    second = capl_gradients(state)
    for site in sites:
        assert second[f"{site}.image_proj.weight"].abs().max() > 0, site
        assert second[f"{site}.token_mlp.0.weight"].abs().max() > 0, site


@pytest.mark.parametrize("order", ["capl_first", "sam_first"])
def test_a_step_moves_theta_and_phi_and_nothing_frozen(order: str) -> None:
    state = tiny_state()
    before = snapshot(state)
    config = BilevelConfig(order=order)  # type: ignore[arg-type]
    figures = state.train_step(tiny_halves(), config)
    moved = changed(state, before)
    assert moved <= set(state.trained)
    assert {name.split(".")[2] for name in moved if name.startswith("sam.mask_decoder.")} >= {
        "mask_tokens",
        "iou_token",
        "output_hypernetworks_mlps",
        "iou_prediction_head",
        "output_upscaling",
        "transformer",
    }
    assert any("qkv.lora_B" in name for name in moved)
    assert any(name.startswith("capl.task") for name in moved)
    assert any(name.startswith("capl.entity") for name in moved)
    assert figures["capl_task"] > 0 and figures["sam_segmentation"] > 0
    assert all(parameter.grad is None for parameter in state.model.parameters())
    trainable = {n for n, p in state.model.named_parameters() if p.requires_grad}
    assert trainable == set(state.trained)


def test_phi_learns_on_the_held_out_half_and_theta_on_the_training_half() -> None:
    halves = tiny_halves()
    other = replace(halves, held_out=halves.training)
    moved = []
    for batch in (halves, other):
        state = tiny_state()
        state.train_step(batch, BilevelConfig(order="sam_first"))
        moved.append(snapshot(state))
    first, second = moved
    differs = {name for name in first if not torch.equal(first[name], second[name])}
    assert differs and all(name.startswith("capl.") for name in differs)


def test_five_capl_steps_go_further_than_one() -> None:
    distances = []
    for capl_steps in (1, 5):
        state = tiny_state()
        state.train_step(
            tiny_halves(),
            BilevelConfig(capl_steps=capl_steps),  # type: ignore[arg-type]
        )
        weight = state.phi.parameters["capl.task.sparse.2.weight"]
        distances.append(float(weight.detach().norm()))
    assert distances[1] > 2 * distances[0]


def test_bilevel_step_with_capl_every_updates_phi_once_per_round() -> None:
    state = tiny_state()
    config = BilevelConfig(capl_every=3)
    moved = []
    for _ in range(4):
        before = snapshot(state)
        state.train_step(tiny_halves(), config)
        after = snapshot(state)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any(not name.startswith("capl.") for name in changed)
        assert changed & set(state.points.parameters), "points learn at every step"
        moved.append(bool(changed & set(state.phi.parameters)))
    assert moved == [True, False, False, True]


def test_capl_never_updated_is_refused() -> None:
    with pytest.raises(ConfigError, match="capl_every"):
        BilevelConfig(capl_every=0)


def test_training_lowers_both_losses() -> None:
    optimizer = OptimizerConfig(lr=1e-3, lr_capl=3e-3)
    state = tiny_state(optimizer=optimizer)
    halves = tiny_halves()
    runs = [state.train_step(halves, CONFIG) for _ in range(8)]
    assert runs[-1]["sam_total"] < 0.9 * runs[0]["sam_total"]
    assert runs[-1]["capl_total"] < 0.95 * runs[0]["capl_total"]


def test_without_capl_only_theta_learns_and_without_theta_only_capl() -> None:
    plain = tiny_state(ModelConfig(capl=None))
    assert "capl_total" not in plain.train_step(tiny_halves(), CONFIG)
    alone = tiny_state(ModelConfig(lora=LoraConfig(rank=0), unfreeze=()))
    assert "sam_total" not in alone.train_step(tiny_halves(), CONFIG)


def test_a_non_finite_loss_updates_nothing() -> None:
    state = tiny_state()
    with torch.no_grad():
        state.model.sam.mask_decoder.mask_tokens.weight[0, 0] = torch.inf
    before = snapshot(state)
    with pytest.raises(TrainingError, match=r"CaPL loss: got nan.*lower optimizer\.lr"):
        state.train_step(tiny_halves(), CONFIG)
    assert changed(state, before) == set()


def test_frozen_parameters_come_back() -> None:
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1), requires_grad=False)]
    with frozen(parameters):
        assert not any(parameter.requires_grad for parameter in parameters)
    assert [parameter.requires_grad for parameter in parameters] == [True, False]


def test_no_unrolling_leaves_theta_as_it_is() -> None:
    state = tiny_state()
    assert unroll(state.forward, state.theta.parameters, tiny_halves().training, CONFIG) == {}


def test_an_unrolled_step_is_an_sgd_step() -> None:
    state = tiny_state()
    batch = tiny_halves().training
    config = BilevelConfig(unroll_steps=1, unroll_lr=0.1)
    adapted = unroll(state.forward, state.theta.parameters, batch, config)
    loss = sam_objective(state.forward(batch), batch, config.losses).total
    names = ["sam.mask_decoder.mask_tokens.weight", "sam.mask_decoder.iou_token.weight"]
    gradients = torch.autograd.grad(loss, [state.theta.parameters[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        expected = state.theta.parameters[name] - 0.1 * gradient
        assert torch.allclose(adapted[name], expected, atol=1e-7)


@pytest.mark.parametrize("unroll_steps", [1, 3])
def test_the_unrolled_gradient_is_that_of_finite_differences(unroll_steps: int) -> None:
    """In float64, along the gradient's part that runs through θ*(φ), all of it, and at random.

    Where points were moved to is a constant of both gradients, so here none moves.

    The step is so short that hardly a ReLU, a selected mask or a pixel's sign changes with it.
    """
    state = tiny_state(ModelConfig(capl=replace(FULL_CAPL, moves_points=False)), double=True)
    halves = tiny_halves(MINIATURE)
    config = BilevelConfig(unroll_steps=unroll_steps, unroll_lr=UNROLL_LR)
    phi = list(state.phi.parameters.values())
    start = [parameter.detach().clone() for parameter in phi]

    def outer(*, constant_theta: bool = False) -> Tensor:
        adapted = unroll(state.forward, state.theta.parameters, halves.training, config)
        if constant_theta:
            adapted = {name: value.detach() for name, value in adapted.items()}
        predictions = state.forward.with_parameters(adapted, halves.held_out)
        return capl_objective(predictions, halves.held_out, config.losses).total

    def gradient(*, constant_theta: bool) -> Tensor:
        loss = outer(constant_theta=constant_theta)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, phi)])

    def slope(direction: Tensor) -> float:
        values = []
        for step in (EPS, -EPS):
            with torch.no_grad():
                parts = direction.split([parameter.numel() for parameter in phi])
                for parameter, value, part in zip(phi, start, parts, strict=True):
                    parameter.copy_(value + step * part.view_as(value))
            values.append(outer().item())
        return (values[0] - values[1]) / (2 * EPS)

    whole, direct = gradient(constant_theta=False), gradient(constant_theta=True)
    random = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0)).double()
    for direction in (random, whole, whole - direct):
        unit = direction / direction.norm()
        measured = slope(unit)
        assert (whole @ unit).item() == pytest.approx(measured, rel=1e-4)
    assert (direct @ unit).item() != pytest.approx(measured, rel=0.1)


def test_a_full_step_through_unrolling() -> None:
    state = tiny_state()
    before = snapshot(state)
    config = BilevelConfig(unroll_steps=1)
    state.train_step(tiny_halves(), config)
    assert any(name.startswith("capl.") for name in changed(state, before))
    assert any("lora" in name for name in changed(state, before))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("capl_first", BilevelConfig()),
        ("unrolled", BilevelConfig(unroll_steps=1)),
        ("sam_first", BilevelConfig(order="sam_first")),
        ("capl_5_steps", BilevelConfig(capl_steps=5)),
    ],
)
def test_strategy_configs_differ_only_in_the_strategy(name: str, expected: BilevelConfig) -> None:
    plain = read_yaml(CONFIGS / "bbbc038.yaml")
    strategy = read_yaml(CONFIGS / f"strategy_{name}.yaml")
    assert from_dict(BilevelConfig, strategy.pop("bilevel")) == expected
    # The strategies are those of the paper's modules, which the default leaves out.
    plain["model"]["capl"] = {"entity": True, "reweights": True}
    assert {**strategy, "name": plain["name"]} == plain


def test_unroll_lr_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="unroll_lr"):
        BilevelConfig(unroll_lr=0.0)
