from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cpcsam.errors import ArtifactError, ConfigError, TrainingError
from cpcsam.model.base_checkpoint import load_base, save_base
from cpcsam.model.capl import FULL_CAPL
from cpcsam.model.fusion import fuse
from cpcsam.model.lora import LoraConfig, is_lora_parameter
from cpcsam.model.run_checkpoint import load_run, save_run
from cpcsam.model.sam import CpcSam
from tests.support.model_factory import noisy_sam
from tests.support.training_factory import tiny_halves, tiny_state
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.forward import Forward
from training.bilevel.step import BilevelConfig, sam_objective
from training.bilevel.train_state import BilevelState, new_bilevel_state
from training.data.prompt_batch import PromptBatch
from training.loop.learning_curve import ValidationScores

FULL = ModelConfig(lora=LoraConfig(rank=0), full_finetuning=True)


def step(state: BilevelState) -> None:
    halves = tiny_halves(state.model.image_size)
    state.train_step(halves, BilevelConfig())


def test_lr_factor_warms_up_then_decays_by_a_cosine() -> None:
    config = OptimizerConfig(warmup=0.2, final=0.1)
    assert config.lr_factor(0.1) == pytest.approx(0.5)
    assert config.lr_factor(0.2) == pytest.approx(1.0)
    assert config.lr_factor(0.6) == pytest.approx(0.55)
    assert config.lr_factor(1.0) == pytest.approx(0.1)
    assert OptimizerConfig(warmup=0.0).lr_factor(0.0) == 1.0


def test_set_learning_rates_scales_each_group() -> None:
    config = OptimizerConfig(lr=1e-3, lr_capl=2e-3, warmup=0.5)
    state = tiny_state(optimizer=config)
    assert state.set_learning_rates(config, 0.25) == pytest.approx(0.5)
    for group, expected in ((state.theta, 5e-4), (state.phi, 1e-3)):
        rates = [parameters["lr"] for parameters in group.optimizer.param_groups]
        assert rates == pytest.approx([expected, expected])


def test_only_matrices_decay() -> None:
    state = tiny_state()
    for group in (state.theta, state.phi):
        for parameters in group.optimizer.param_groups:
            for parameter in parameters["params"]:
                assert parameters["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_new_bilevel_state_groups_the_configured_parameters() -> None:
    state = tiny_state(ModelConfig(unfreeze=("iou_token",)))
    calibrating = {n for n, _ in state.model.named_parameters() if n.startswith("capl.")}
    points = {name for name in calibrating if name.startswith("capl.task.points.")}
    assert set(state.points.parameters) == points and len(points) == 10
    assert set(state.phi.parameters) == calibrating - points
    plain = {name for name in state.theta.parameters if ".lora_" not in name}
    assert plain == {"sam.mask_decoder.iou_token.weight"}
    assert len(state.theta.parameters) > 10
    frozen = [p for n, p in state.model.named_parameters() if n not in state.trained]
    assert frozen and not any(parameter.requires_grad for parameter in frozen)


def test_wrong_parts_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.unfreeze: got mask_token, expected transformer"):
        tiny_state(ModelConfig(unfreeze=("mask_token",)))
    with pytest.raises(TrainingError, match="something that learns"):
        tiny_state(ModelConfig(lora=LoraConfig(rank=0), capl=None, unfreeze=()))


@pytest.mark.parametrize("name", ["lr", "lr_capl", "clip_norm", "warmup", "final", "weight_decay"])
def test_optimizer_values_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{name}"):
        OptimizerConfig(**{name: -1.0})
    with pytest.raises(ConfigError, match=r"optimizer\.betas: got 1.0, expected from 0 to below 1"):
        OptimizerConfig(betas=(0.9, 1.0))


def test_restore_of_saved_state_continues_exactly(tmp_path: Path) -> None:
    path, record = tmp_path / "last.pt", {"seed": 0, "model": {"unfreeze": ["iou_token"]}}
    state = tiny_state()
    step(state)
    state.elapsed_s, state.validations = 2.5, [ValidationScores(0, 0.25, 0.5)]
    state.save(path, record)
    step(state)
    resumed = tiny_state()
    resumed.restore(path, record)
    assert (resumed.step, resumed.elapsed_s) == (1, 2.5)
    assert resumed.validations == state.validations
    step(resumed)
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_restore_with_other_configuration_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    state = tiny_state()
    state.save(path, {"optimizer": {"lr": 0.1}})
    with pytest.raises(ConfigError, match=r"optimizer\.lr: got 0\.2, expected 0\.1"):
        state.restore(path, {"optimizer": {"lr": 0.2}})


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_restore_of_damaged_file_raises_artifact_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="unreadable file"):
        tiny_state().restore(path, {})


def everything(model: CpcSam) -> dict[str, Tensor]:
    """Parameters and buffers, those that are not saved among them."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach().clone() for name, value in named}


def moved_by_training(state: BilevelState, steps: int = 2) -> set[str]:
    before = everything(state.model)
    for _ in range(steps):
        step(state)
    after = everything(state.model)
    assert after.keys() == before.keys()
    return {name for name in before if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(unfreeze=()),
        ModelConfig(lora=LoraConfig(rank=0)),
        ModelConfig(lora=LoraConfig(rank=2, encoder_modules=("qkv", "lin1"), decoder_modules=())),
        ModelConfig(capl=None),
    ],
    ids=["default", "LoRA alone", "no LoRA", "encoder's LoRA alone", "no CaPL"],
)
def test_frozen_parameters_are_bit_identical_after_training(config: ModelConfig) -> None:
    state = tiny_state(config)
    moved, learns = moved_by_training(state), set(state.trained)
    assert moved <= learns
    # Of masks 1-3 the best learns: two steps need not have touched all three.
    assert all("output_hypernetworks_mlps" in name for name in learns - moved)
    plain = {name for name in moved if not is_lora_parameter(name) and name.startswith("sam.")}
    assert all(name.split(".")[2] in config.unfreeze for name in plain)
    assert any(map(is_lora_parameter, moved)) == (config.lora.rank > 0)


def test_full_finetuning_moves_all_of_sam_and_no_constant() -> None:
    state = tiny_state(FULL)
    moved = moved_by_training(state)
    constants = {name for name, _ in state.model.named_buffers()}
    assert {"sam.pixel_mean", "sam.pixel_std"} < constants and not moved & constants
    assert {"sam.image_encoder.patch_embed.proj.weight", "sam.image_encoder.pos_embed"} <= moved
    assert "sam.prompt_encoder.point_embeddings.1.weight" in moved
    assert any(name.startswith("sam.mask_decoder.transformer.layers.1.mlp") for name in moved)
    assert any(name.startswith("capl.") for name in moved)
    assert not any(map(is_lora_parameter, state.theta.parameters))


def test_full_finetuning_refuses_lora() -> None:
    with pytest.raises(ConfigError, match=r"model\.lora\.rank: got 4, expected 0"):
        ModelConfig(full_finetuning=True)


@pytest.mark.parametrize(
    ("lora", "layers"),
    [
        # One encoder block here; the decoder has 7 attentions and 2 MLPs.
        (LoraConfig(rank=1, alpha=1.0), 1 + 2 * 7),
        (LoraConfig(rank=16, encoder_modules=("qkv", "lin1", "lin2"), decoder_modules=()), 3),
        (
            LoraConfig(
                rank=3,
                encoder_modules=(),
                decoder_modules=("q_proj", "k_proj", "v_proj", "out_proj", "lin1", "lin2"),
            ),
            4 * 7 + 2 * 2,
        ),
    ],
)
def test_lora_has_the_rank_and_the_modules_asked_for(lora: LoraConfig, layers: int) -> None:
    state = tiny_state(ModelConfig(lora=lora, unfreeze=()))
    theta = state.theta.parameters
    assert len(theta) == 2 * layers
    wanted = {*lora.encoder_modules, *lora.decoder_modules}
    for name, parameter in theta.items():
        layer, side = name.split(".lora_")
        assert layer.rpartition(".")[2] in wanted
        assert parameter.shape[0 if side.startswith("A") else 1] == lora.rank, name
    assert moved_by_training(state) == {
        *theta,
        *state.phi.parameters,
        *state.points.parameters,
    }


@torch.no_grad()
def outputs(model: CpcSam, batch: PromptBatch) -> list[Tensor]:
    predictions = Forward(model)(batch)
    return [predictions.low_res_masks, predictions.iou_predictions]


@pytest.mark.parametrize("config", [FULL, ModelConfig()], ids=["full fine-tuning", "LoRA"])
def test_a_trained_run_is_saved_loaded_and_merged_with_the_same_outputs(
    config: ModelConfig, tmp_path: Path
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    save_base(noisy_sam(), base)
    untrained, batch = load_base(base), tiny_halves(256).held_out
    state = new_bilevel_state(
        load_base(base), config, OptimizerConfig(lr=1e-3, lr_capl=1e-2), seed=0, bf16=False
    )
    for _ in range(2):
        step(state)
    save_run(state.model, run, base=base, lora=config.lora)
    loaded = load_run(run)
    trained = outputs(state.model, batch)
    for found, expected in zip(outputs(loaded, batch), trained, strict=True):
        assert torch.equal(found, expected)
    before = outputs(untrained, batch)
    for found, expected, earlier in zip(outputs(fuse(loaded), batch), trained, before, strict=True):
        largest = expected.abs().max()
        assert (found - expected).abs().max() <= 1e-5 * largest
        assert (expected - earlier).abs().max() > 1e-3 * largest
    weight = "sam.image_encoder.blocks.3.mlp.lin1.weight"
    same = torch.equal(loaded.get_parameter(weight), untrained.get_parameter(weight))
    assert same == (config is not FULL)


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
            noisy_sam(),
            ModelConfig(capl=FULL_CAPL),
            OptimizerConfig(),
            seed=3,
            bf16=False,
            dtype=dtype,
        )
        for dtype in (torch.float32, torch.float64)
    )
    assert len(double.phi.parameters) > 10
    for name, parameter in double.model.named_parameters():
        assert parameter.dtype == torch.float64, name
        assert torch.equal(parameter.float(), single.model.get_parameter(name)), name
