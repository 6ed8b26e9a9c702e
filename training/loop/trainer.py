"""A training run: its loop, its checkpoints and its best model."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.run_checkpoint import save_run
from training.data.batches import Halves, StepBatches
from training.data.prefetch import stream
from training.data.sample import Sample
from training.data.sources import read_source, validation_windows
from training.evaluation.one_click import OneClickScores, one_click
from training.loop.config import TrainConfig, run_record
from training.loop.distributed import (
    barrier,
    gather,
    is_main,
    largest,
    part,
    process_count,
    training_device,
)
from training.loop.gradient_checkpointing import recompute_blocks
from training.loop.train_state import Learner, new_learner

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """How a session ended.

    Attributes:
        step: steps done.
        finished: False where it was interrupted.
        base_dice: validation Dice before training.
        best_dice: best validation Dice since; -1 before the first validation.
    """

    step: int
    finished: bool
    base_dice: float
    best_dice: float


def train(config: TrainConfig, interrupted: Callable[[], bool] = lambda: False) -> TrainResult:
    """Run or resume a training, in one process or in all of a `process_group`.

    Args:
        config: the run.
        interrupted: asked after every step; once true in any process, the state is saved and
            training ends in all of them.

    Raises:
        ConfigError: the run exists, was begun with another configuration, or its images cannot
            be dealt out to the processes.
        ArtifactError: the base or the saved state cannot be used.
        DataError: the images cannot be used.
        TrainingError: a loss is no longer finite, or a process that is needed died; `last.pt`
            and `best` stay as they were.
    """
    config.require_equal_parts(process_count())
    last = config.folder / "last.pt"
    exists = last.exists() or (config.folder / "best").exists()
    if exists and not (config.resume or config.overwrite):
        raise ConfigError.of(
            "name",
            got=f"{config.folder}, where a run exists",
            expected="a new name",
            fix="go on with resume=true or begin anew with overwrite=true",
        )
    samples = read_source(config.data.train, "data.train")
    validation_source = config.data.validation.or_else(config.data.train)
    validation = validation_windows(
        read_source(validation_source, "data.validation"),
        config.data.window,
        config.data.max_windows,
    )
    record = run_record(config, samples)
    learner = _learner(config)
    resumed = config.resume and last.exists()
    if resumed:
        learner.restore(last, record)
    _require_same_step(config, learner)
    if is_main():
        _tidy(config.folder)
        if not resumed:
            _clear(config.folder)
    batches = StepBatches(
        samples,
        learner.model.image_size,
        config.model.with_needed_practice(config.batch),
        seed=config.seed,
        steps=config.steps,
        part=part(config.batch.images),
    )
    with _writer(config, learner) as writer:
        return Session(config, learner, validation, record, writer).run(batches, interrupted)


@dataclass
class Session:
    """One stretch of a run, from its start or resumption to its end or interruption.

    Of several processes the main one alone has a writer, shows progress and writes files.
    """

    config: TrainConfig
    learner: Learner
    validation: list[Sample]
    record: dict[str, Any]
    writer: SummaryWriter | None

    def run(self, batches: StepBatches, interrupted: Callable[[], bool]) -> TrainResult:
        """Train to the end of the run, of its time or to an interruption."""
        config, learner = self.config, self.learner
        began = time.monotonic() - learner.elapsed_s
        if learner.step == 0:
            learner.base_dice = self._validate().dice
        finished = self._progress() >= 1
        ahead = stream(batches, learner.step, config.workers, training_device())
        with tqdm(
            total=config.steps,
            initial=learner.step,
            desc=config.name,
            unit="step",
            disable=not is_main(),
        ) as bar:
            for halves in ahead if not finished else ():
                figures = self._step(halves)
                learner.elapsed_s, stop = largest(time.monotonic() - began, float(interrupted()))
                bar.update()
                bar.set_postfix(
                    {
                        name: f"{figures[name]:.3f}"
                        for name in figures
                        if "_gradient" not in name and "total" not in name
                    }
                )
                finished = self._progress() >= 1
                if finished or learner.step % config.evaluate_every == 0:
                    self._keep_best(bar)
                if finished or stop or learner.step % config.checkpoint_every == 0:
                    self._checkpoint()
                if finished or stop:
                    break
        barrier()  # what was saved can be read by every process that returns
        return TrainResult(learner.step, finished, learner.base_dice, learner.best_dice)

    def _progress(self) -> float:
        """Share of the run that is done, by steps or by time, whichever is further."""
        limit = self.config.max_minutes
        by_time = self.learner.elapsed_s / (60 * limit) if limit is not None else 0.0
        return max(self.learner.step / self.config.steps, by_time)

    def _step(self, halves: Halves) -> dict[str, float]:
        config, learner = self.config, self.learner
        half_a_step = 0.5 / config.steps
        factor = learner.set_learning_rates(
            config.optimizer, min(1.0, self._progress() + half_a_step)
        )
        figures = learner.take_step(halves, config.bilevel, config.accumulate)
        self._log({**figures, "learning_rate_factor": factor})
        return figures

    def _log(self, figures: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, self.learner.step)

    def _checkpoint(self) -> None:
        if is_main():
            self.learner.save(self.config.folder / "last.pt", self.record)

    def _validate(self) -> OneClickScores:
        """Score the validation windows, each process its part of them."""
        windows = self.validation[part(len(self.validation))]
        scored = one_click(self.learner.model, windows, min_area=self.config.data.min_area)
        results = gather([replace(result, mask=result.mask[:0]) for result in scored])
        if not results:
            raise ConfigError.of(
                "data.validation",
                got=f"no entity of {self.config.data.min_area} pixels",
                expected="annotated entities",
                fix="give other images or lower data.min_area",
            )
        scores = OneClickScores.of(results)
        self._log({"validation_dice": scores.dice, "validation_iou": scores.iou})
        return scores

    def _keep_best(self, bar: tqdm[Any]) -> None:
        """Validate, and publish the model where it is the best so far."""
        learner = self.learner
        scores = self._validate()
        better = scores.dice > learner.best_dice
        learner.best_dice = max(scores.dice, learner.best_dice)
        if not is_main():
            return
        bar.write(
            f"step {learner.step}: validation Dice {scores.dice:.4f} (base "
            f"{learner.base_dice:.4f}){', best' if better else ''}",
            file=sys.stderr,
        )
        if better:
            self._publish(scores)

    def _publish(self, scores: OneClickScores) -> None:
        config, learner = self.config, self.learner
        save_run(
            learner.model,
            config.folder / "best",
            base=config.model.base,
            lora=config.model.lora,
            config={"train": self.record},
            metrics={
                "step": learner.step,
                "elapsed_s": round(learner.elapsed_s, 1),
                "validation": asdict(scores),
                "validation_dice_base": learner.base_dice,
            },
        )


def _learner(config: TrainConfig) -> Learner:
    model = load_base(config.model.base, image_size=config.model.image_size)
    if config.gradient_checkpointing:
        recompute_blocks(model)
    return new_learner(
        model,
        config.model,
        config.optimizer,
        seed=config.seed,
        bf16=config.precision == "bfloat16",
        dtype=torch.float64 if config.precision == "float64" else torch.float32,
        device=training_device(),
    )


def _require_same_step(config: TrainConfig, learner: Learner) -> None:
    """Refuse processes that found different states, as on machines without a common folder."""
    last, first = (abs(int(step)) for step in largest(learner.step, -learner.step))
    if last != first:
        raise ConfigError.of(
            "out",
            got=f"{config.folder}, in which processes found the states of steps {first} and {last}",
            expected="one folder that all processes see",
            fix="set out to a shared folder",
        )


def _writer(config: TrainConfig, learner: Learner) -> AbstractContextManager[SummaryWriter | None]:
    if not is_main():
        return nullcontext()
    return SummaryWriter(config.folder / "tensorboard", purge_step=learner.step)


def _tidy(folder: Path) -> None:
    """Remove what a killed session was writing; put back a `best` that it had set aside."""
    best = folder / "best"
    for aside in folder.glob(".best.old.*/best"):
        if not best.exists():
            aside.rename(best)
    for path in [*folder.glob(".best.*"), *folder.glob(".last.pt.*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _clear(folder: Path) -> None:
    """Remove what an earlier run of this name wrote, and nothing else."""
    (folder / "last.pt").unlink(missing_ok=True)
    for name in ("best", "tensorboard"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
