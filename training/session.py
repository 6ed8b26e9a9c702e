"""A training run: its configuration, its loop, its checkpoints and its best model."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cpcsam.checkpoint import base_digest, load_base, save_run
from cpcsam.config import to_dict
from cpcsam.errors import ConfigError
from training.batches import BatchConfig, Halves, StepBatches
from training.bilevel import BilevelConfig, bilevel_step
from training.data import Sample, digest_samples
from training.learner import Learner, ModelConfig, OptimizerConfig, new_learner
from training.metrics import OneClickScores, one_click
from training.sources import DataConfig, read_source, validation_windows

__all__ = ["TrainConfig", "TrainResult", "train"]

FREE_TO_CHANGE = ("resume", "overwrite", "max_minutes", "workers")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: the run's folder below `out`.
        out: where runs are kept.
        seed: decides CaPL's and LoRA's initial weights and every batch.
        steps: bi-level steps.
        max_minutes: stop earlier after so long; the schedule then follows the clock. null for
            no limit.
        precision: bfloat16 runs the model in mixed precision.
        workers: processes that prepare batches; 0 prepares them in the training process.
        evaluate_every: steps between validations; there is always one at the end.
        checkpoint_every: steps between saves of the full state.
        resume: go on where the run stopped; a run that never began begins.
        overwrite: begin anew although the run exists.
    """

    name: str
    out: Path = Path("runs")
    seed: int = 0
    steps: int = 1000
    max_minutes: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    workers: int = 1
    evaluate_every: int = 100
    checkpoint_every: int = 100
    resume: bool = False
    overwrite: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    bilevel: BilevelConfig = field(default_factory=BilevelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("steps", "evaluate_every", "checkpoint_every", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not (value >= 1 or (name == "max_minutes" and value > 0)):
                raise ConfigError.of(
                    name, got=value, expected="at least 1", fix="correct the value"
                )

    @property
    def folder(self) -> Path:
        """Where the run writes: `best`, `last.pt` and `tensorboard`."""
        return self.out / self.name


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
    """Run or resume a training.

    Args:
        config: the run.
        interrupted: asked after every step; once true, the state is saved and training ends.

    Raises:
        ConfigError: the run exists, or was begun with another configuration.
        ArtifactError: the base or the saved state cannot be used.
        DataError: the images cannot be used.
        TrainingError: a loss is no longer finite; `last.pt` and `best` stay as they were.
    """
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
    record = _record(config, samples)
    model = load_base(config.model.base, image_size=config.model.image_size)
    learner = new_learner(
        model,
        config.model,
        config.optimizer,
        seed=config.seed,
        bf16=config.precision == "bfloat16",
    )
    if config.resume and last.exists():
        learner.restore(last, record)
    else:
        _clear(config.folder)
    batches = StepBatches(
        samples, model.image_size, config.batch, seed=config.seed, steps=config.steps
    )
    with SummaryWriter(config.folder / "tensorboard", purge_step=learner.step) as writer:
        return Session(config, learner, validation, record, writer).run(batches, interrupted)


@dataclass
class Session:
    """One stretch of a run, from its start or resumption to its end or interruption."""

    config: TrainConfig
    learner: Learner
    validation: list[Sample]
    record: dict[str, Any]
    writer: SummaryWriter

    def run(self, batches: StepBatches, interrupted: Callable[[], bool]) -> TrainResult:
        """Train to the end of the run, of its time or to an interruption."""
        config, learner = self.config, self.learner
        began = time.monotonic() - learner.elapsed_s
        if learner.step == 0:
            learner.base_dice = self._validate().dice
        finished = self._progress() >= 1
        bar = tqdm(total=config.steps, initial=learner.step, desc=config.name, unit="step")
        with bar:
            for halves in _stream(batches, learner.step, config.workers) if not finished else ():
                figures = self._step(halves)
                learner.elapsed_s = time.monotonic() - began
                bar.update()
                bar.set_postfix(
                    {
                        name: f"{figures[name]:.3f}"
                        for name in figures
                        if "_gradient" not in name and "total" not in name
                    }
                )
                finished, stop = self._progress() >= 1, interrupted()
                if finished or learner.step % config.evaluate_every == 0:
                    self._keep_best(bar)
                if finished or stop or learner.step % config.checkpoint_every == 0:
                    learner.save(config.folder / "last.pt", self.record)
                if finished or stop:
                    break
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
        figures = bilevel_step(learner.forward, learner.theta, learner.phi, halves, config.bilevel)
        learner.step += 1
        for name, value in {**figures, "learning_rate_factor": factor}.items():
            self.writer.add_scalar(name, value, learner.step)
        return figures

    def _validate(self) -> OneClickScores:
        results = list(
            one_click(self.learner.model, self.validation, min_area=self.config.data.min_area)
        )
        if not results:
            raise ConfigError.of(
                "data.validation",
                got=f"no entity of {self.config.data.min_area} pixels",
                expected="annotated entities",
                fix="give other images or lower data.min_area",
            )
        scores = OneClickScores.of(results)
        self.writer.add_scalar("validation_dice", scores.dice, self.learner.step)
        self.writer.add_scalar("validation_iou", scores.iou, self.learner.step)
        return scores

    def _keep_best(self, bar: tqdm[Any]) -> None:
        """Validate, and publish the model where it is the best so far."""
        config, learner = self.config, self.learner
        scores = self._validate()
        better = scores.dice > learner.best_dice
        bar.write(
            f"step {learner.step}: validation Dice {scores.dice:.4f} (base "
            f"{learner.base_dice:.4f}){', best' if better else ''}",
            file=sys.stderr,
        )
        if not better:
            return
        learner.best_dice = scores.dice
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


def _record(config: TrainConfig, samples: list[Sample]) -> dict[str, Any]:
    """What a run is, as plain data: what may change between its sessions is left out."""
    record: dict[str, Any] = {
        key: value for key, value in to_dict(config).items() if key not in FREE_TO_CHANGE
    }
    record["base_sha256"] = base_digest(config.model.base)
    record["train_sha256"] = digest_samples(samples)
    return record


def _clear(folder: Path) -> None:
    """Remove what an earlier run of this name wrote, and nothing else."""
    (folder / "last.pt").unlink(missing_ok=True)
    for name in ("best", "tensorboard"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def _stream(batches: StepBatches, start: int, workers: int) -> Iterator[Halves]:
    if start < len(batches):
        batches[start]  # what cannot be drawn is refused here, in one line, not by a worker
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=range(start, len(batches)),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            worker_init_fn=_leave_signals_to_parent,
        )
    )


def _leave_signals_to_parent(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
