"""Bi-level runs: start or resume, validate across processes, publish the best model."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.utils.tensorboard import SummaryWriter

from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.lora import require_lora_layers
from training.bilevel.best_model import BestModel
from training.bilevel.config import TrainConfig, run_record
from training.bilevel.forward import enable_gradient_checkpointing
from training.bilevel.plan import planned
from training.bilevel.train_state import BilevelState, new_bilevel_state
from training.data.batches import StepBatches
from training.data.prefetch import prefetch
from training.data.prompt_batch import Halves
from training.data.sources import account_line, read_source, validation_windows
from training.loop.callbacks import Checkpoints, TensorBoard, Validation
from training.loop.distributed import (
    all_reduce_max,
    is_main,
    process_count,
    rank_slice,
    training_device,
)
from training.loop.learning_curve import ValidationScores, best_of
from training.loop.precision import is_mixed
from training.loop.train_state import clear_run, remove_leftovers
from training.loop.trainer import Budget, Trainer

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a training session.

    Attributes:
        step: steps done.
        finished: False after an interruption.
        base: validation of the untrained model, which equals the base.
        best: best validation, of the model in `best`; the base's if training did not beat it.
        learned_nothing: whether models beat the base, but segment other images as well.
    """

    step: int
    finished: bool
    base: ValidationScores
    best: ValidationScores
    learned_nothing: bool = False


def train(
    config: TrainConfig,
    interrupted: Callable[[], bool] = lambda: False,
    tell: Callable[[str], object] = lambda line: None,
) -> TrainResult:
    """Run or resume a training, in one process or in all of a `process_group`.

    Args:
        config: the run.
        interrupted: polled after every step; once true in any process, the state is saved and
            training ends in all of them.
        tell: takes one line, the account of the training data, in the main process.

    Raises:
        ConfigError: the run exists, was begun with another configuration, or its images cannot
            be split evenly over the processes.
        ArtifactError: the base or the saved state cannot be used.
        DataError: the images cannot be used.
        TrainingError: a loss is no longer finite, or a process that is needed died; `last.pt`
            and `best` stay as they were.
    """
    config.require_equal_microbatches(process_count())
    last = config.folder / "last.pt"
    exists = last.exists() or (config.folder / "best").exists()
    if exists and not (config.resume or config.overwrite):
        raise ConfigError.of(
            "name",
            got=f"{config.folder}, where a run exists",
            expected="a new name",
            fix="continue with resume=true or start over with overwrite=true",
        )
    resumed = config.resume and last.exists()
    if config.resume and exists and not resumed:
        raise ConfigError.of(
            "resume",
            got=f"{config.folder}, whose run ended without a state",
            expected="a last.pt to continue from",
            fix="keep the run, which is finished, or start over with overwrite=true",
        )
    if not resumed:
        config.require_effect()
    samples = read_source(config.data.train, "data.train", config.intensity)
    if is_main():
        tell(account_line(samples, "data.train"))
    config = planned(config, samples, resumed=resumed)
    validation_source = config.data.validation.or_else(config.data.train)
    validation = validation_windows(
        read_source(validation_source, "data.validation", config.intensity),
        config.scale,
        config.data.max_windows,
    )
    record = run_record(config, samples)
    state = _initial_state(config, resumed=resumed)
    if resumed:
        state.restore(last, record)
    _require_same_step(config, state)
    # Only now: a run that is refused for its data or configuration must not lose its predecessor.
    if is_main():
        remove_leftovers(config.folder)
        if not resumed:
            clear_run(config.folder)
    batches = StepBatches(
        samples,
        state.model.image_size,
        config.model.with_needed_practice(config.batch),
        config.scale,
        seed=config.seed,
        steps=config.planned_steps,
        rank_slice=rank_slice(config.batch.images),
        held_out=bool(state.phi.parameters),
    )
    with _writer(config, state) as writer:
        board = TensorBoard(writer, state)
        best = BestModel(config, state, validation, record, board)
        trainer = Trainer(
            state,
            _train_step(config, state),
            Budget(minutes=config.max_minutes, steps=config.planned_steps),
            (
                best,
                board,
                Validation(best.update, state, config.evaluate_every),
                # Last, so that a saved state knows the Dice of the validation before it.
                Checkpoints(last, state, record, config.checkpoint_every),
            ),
            description=config.name,
            converged=lambda: best.age >= (config.patience or math.inf),
        )
        finished = trainer.fit(
            prefetch(batches, state.step, config.workers, training_device()), interrupted
        )
    base, *trained = state.validations
    kept = best_of(state.validations)
    blind = kept is base and any(scores.dice > base.dice for scores in trained)
    return TrainResult(state.step, finished, base, kept, blind)


def _train_step(
    config: TrainConfig, state: BilevelState
) -> Callable[[Halves, float], dict[str, float]]:
    # Read in the middle of a step: at its start, the first one's warm-up factor would be 0.
    half_a_step = 0.5 / config.planned_steps

    def train_step(halves: Halves, progress: float) -> dict[str, float]:
        factor = state.set_learning_rates(config.optimizer, min(1.0, progress + half_a_step))
        metrics = state.train_step(halves, config.bilevel, config.accumulate)
        return {**metrics, "learning_rate_factor": factor}

    return train_step


def _initial_state(config: TrainConfig, *, resumed: bool) -> BilevelState:
    model = load_base(config.model.base, image_size=config.model.image_size)
    if not resumed:
        require_lora_layers(model, config.model.lora)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    device = training_device()
    return new_bilevel_state(
        model,
        config.model,
        config.optimizer,
        seed=config.seed,
        bf16=is_mixed(config.precision, device),
        dtype=torch.float64 if config.precision == "float64" else torch.float32,
        device=device,
    )


def _require_same_step(config: TrainConfig, state: BilevelState) -> None:
    """Refuse processes that found different states, as on machines without a common folder."""
    # The maximum of -step is the smallest step, found in the same all-reduce.
    last, first = (abs(int(step)) for step in all_reduce_max(state.step, -state.step))
    if last != first:
        raise ConfigError.of(
            "out",
            got=f"{config.folder}, in which processes found the states of steps {first} and {last}",
            expected="one folder that all processes see",
            fix="set out to a shared folder",
        )


def _writer(
    config: TrainConfig, state: BilevelState
) -> AbstractContextManager[SummaryWriter | None]:
    if not is_main():
        return nullcontext()
    return SummaryWriter(config.folder / "tensorboard", purge_step=state.step)
