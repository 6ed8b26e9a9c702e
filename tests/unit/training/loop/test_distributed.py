from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cpcsam.errors import ConfigError
from cpcsam.model.capl import FULL_CAPL
from cpcsam.model.sam import CpcSam
from tests.support.model_factory import noisy_sam
from tests.support.processes.training import greatest_difference, tiny_run, trained
from tests.support.training_factory import MINIATURE, SCALE, discs, tiny_state
from training.bilevel.config import ModelConfig, OptimizerConfig, TrainConfig
from training.bilevel.forward import enable_gradient_checkpointing
from training.bilevel.run import train
from training.bilevel.step import BilevelConfig
from training.bilevel.train_state import BilevelState
from training.data.batches import BatchConfig, StepBatches
from training.data.prompt_batch import Halves
from training.loop.distributed import (
    all_gather,
    all_reduce_max,
    all_reduce_mean,
    is_main,
    process_count,
    process_group,
    rank_slice,
    training_device,
)

IMAGES = BatchConfig(images=4, entities=2, groups=2)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return replace(
        tiny_run(tmp_path, images=2), precision="float64", evaluate_every=10, checkpoint_every=2
    )


def double_state(config: ModelConfig | None = None) -> BilevelState:
    """In float64, with steps so short that Adam does not blow up the last digits of gradients."""
    return tiny_state(config, OptimizerConfig(lr=1e-3, lr_capl=1e-3), double=True)


@cache
def whole_batches() -> list[Halves]:
    """Two batches of four images, which no step changes."""
    samples = [discs(seed) for seed in range(8)]
    batches = StepBatches(samples, MINIATURE, IMAGES, SCALE, seed=1, steps=2)
    return [batches[0], batches[1]]


def steps(state: BilevelState, accumulate: int = 1) -> list[dict[str, float]]:
    """Train on the whole batches; return the figures of every step."""
    return [state.train_step(halves, BilevelConfig(), accumulate) for halves in whole_batches()]


def weights(state: BilevelState) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.model.named_parameters()}


@cache
def trained_whole(moves_points: bool) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Figures and weights of steps of whole batches."""
    state = double_state(ModelConfig(capl=replace(FULL_CAPL, moves_points=moves_points)))
    return steps(state), weights(state)


def test_one_process_communicates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group():
        assert process_count() == 1 and is_main()
        assert not torch.distributed.is_initialized()
        tensors = [torch.ones(2), torch.zeros(3, 1)]
        all_reduce_mean(tensors)
        assert [tensor.tolist() for tensor in tensors] == [[1, 1], [[0], [0], [0]]]
        assert all_reduce_max(2.5, -1.0) == [2.5, -1.0]
        assert all_gather(["a"]) == ["a"]
        assert list(range(7))[rank_slice(7)] == list(range(7))


def test_process_group_with_partial_environment_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE: got 2 .*RANK.*start with torchrun"):
        with process_group():
            pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_training_runs_on_the_cpu() -> None:
    assert training_device() == torch.device("cpu")


def test_rank_slices_of_batches_concatenate_to_the_whole_batch() -> None:
    samples = [discs(seed) for seed in range(8)]
    whole, first, second = (
        StepBatches(samples, MINIATURE, IMAGES, SCALE, seed=1, steps=2, rank_slice=images)[1]
        for images in (slice(None), slice(0, 2), slice(2, 4))
    )
    for half in ("training", "held_out"):
        for name, value in vars(getattr(whole, half)).items():
            pair = [getattr(getattr(halves, half), name) for halves in (first, second)]
            assert value is None or torch.equal(value, torch.cat(pair)), name


@pytest.mark.parametrize(
    ("accumulate", "moves_points", "tolerance"),
    [(2, False, 1e-8), (4, False, 1e-8), (2, True, 1e-6)],
)
def test_accumulated_microbatches_give_the_steps_of_whole_batches(
    accumulate: int, moves_points: bool, tolerance: float
) -> None:
    """Moved points are in float32 whatever the model is in, and equal as far as that tells."""
    config = ModelConfig(capl=replace(FULL_CAPL, moves_points=moves_points))
    figures, whole = trained_whole(moves_points)
    parts = double_state(config)
    start = weights(parts)
    for expected, found in zip(figures, steps(parts, accumulate=accumulate), strict=True):
        assert found == pytest.approx(expected, abs=tolerance)
    assert greatest_difference(whole, weights(parts)) < tolerance
    assert greatest_difference(whole, start) > 1e-3


def test_gradient_checkpointing_gives_the_same_steps() -> None:
    recomputed = double_state()
    names = list(recomputed.model.state_dict())
    enable_gradient_checkpointing(recomputed.model)
    figures, plain = trained_whole(moves_points=True)
    assert steps(recomputed) == figures
    assert greatest_difference(plain, weights(recomputed)) == 0
    assert list(recomputed.model.state_dict()) == names


def test_gradient_checkpointing_keeps_little_for_backward() -> None:
    plain, recomputed = noisy_sam(), noisy_sam()
    enable_gradient_checkpointing(recomputed)
    assert kept_bytes(recomputed) < 0.3 * kept_bytes(plain)


def kept_bytes(model: CpcSam) -> int:
    """Bytes besides the weights that a pass of the image encoder keeps for its backward."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    image = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embeddings = model.encode_image(image, torch.full((1, 2), 256))
    assert embeddings.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def test_microbatches_keep_the_order_and_refuse_unequal_sizes() -> None:
    samples = [discs(seed) for seed in range(8)]
    halves: Halves = StepBatches(samples, MINIATURE, IMAGES, SCALE, seed=1, steps=1)[0]
    microbatches = halves.training.microbatches(2)
    assert [len(microbatch.image) for microbatch in microbatches] == [2, 2]
    assert torch.equal(
        torch.cat([microbatch.masks for microbatch in microbatches]), halves.training.masks
    )
    assert microbatches[0].mask_input is None
    with pytest.raises(RuntimeError):
        halves.training.microbatches(3)


def test_train_config_that_processes_cannot_compute_exactly_raises(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"batch\.images: got 2, expected a multiple of 3"):
        replace(config, accumulate=3)
    with pytest.raises(ConfigError, match=r"got 2, expected a multiple of 4 \(2 processes × 2"):
        replace(config, accumulate=2).require_equal_microbatches(processes=2)
    unrolled = replace(config, bilevel=BilevelConfig(unroll_steps=1))
    for refused in (
        lambda: replace(unrolled, accumulate=2),
        lambda: replace(unrolled, gradient_checkpointing=True),
        lambda: unrolled.require_equal_microbatches(processes=2),
    ):
        with pytest.raises(ConfigError, match=r"bilevel\.unroll_steps: got 1 with .*hypergradient"):
            refused()


@pytest.mark.slow
def test_train_with_accumulation_and_checkpointing_gives_the_same_weights(
    config: TrainConfig,
) -> None:
    plain = replace(config, steps=1)
    lean = replace(plain, name="lean", accumulate=2, gradient_checkpointing=True)
    first, second = train(plain), train(lean)
    assert greatest_difference(trained(plain), trained(lean)) < 1e-10
    assert first.best.dice == pytest.approx(second.best.dice)
    assert train(replace(plain, resume=True, accumulate=2)) == first
