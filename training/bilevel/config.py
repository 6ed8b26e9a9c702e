"""Configuration of a bi-level run, and the record that a resumed run is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpcsam.config import to_dict
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import base_digest
from training.bilevel.model_config import ModelConfig
from training.bilevel.optimizer import OptimizerConfig
from training.bilevel.step import BilevelConfig
from training.data.batches import BatchConfig
from training.data.datasets.items import LazySamples
from training.data.sample import Sample, digest_samples
from training.data.sources import DataConfig

__all__ = ["TrainConfig", "run_record"]

FREE_TO_CHANGE = (
    "resume",
    "overwrite",
    "max_minutes",
    "workers",
    "accumulate",
    "gradient_checkpointing",
)


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: the run's folder below `out`.
        out: parent folder of runs; all processes of a run must see the same folder.
        seed: decides CaPL's and LoRA's initial weights and every batch.
        steps: bi-level steps.
        max_minutes: stop earlier, after this time; the schedule then follows the clock. null
            sets no limit.
        precision: bfloat16 runs the model in mixed precision; float64 is for exact comparisons.
        accumulate: microbatches that a process splits its share of a half-batch into; more take
            less memory and give the same gradients.
        gradient_checkpointing: recompute the image encoder's blocks in backward, which takes
            less memory and more time.
        workers: processes that prepare batches; 0 prepares them in the training process.
        evaluate_every: steps between validations; there is always one at the end.
        checkpoint_every: steps between saves of the full state.
        resume: continue the run from its last checkpoint, if it has one.
        overwrite: start over although the run exists.
    """

    name: str
    out: Path = Path("runs")
    seed: int = 0
    steps: int = 1000
    max_minutes: float | None = None
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    accumulate: int = 1
    gradient_checkpointing: bool = False
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
        """Refuse counts below one, unequal microbatches, and unrolling over several."""
        for name in ("steps", "evaluate_every", "checkpoint_every", "accumulate", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not (value >= 1 or (name == "max_minutes" and value > 0)):
                raise ConfigError.of(
                    name, got=value, expected="at least 1", fix="correct the value"
                )
        self.require_equal_microbatches(processes=1)

    @property
    def folder(self) -> Path:
        """Folder of the run's `best`, `last.pt` and `tensorboard`."""
        return self.out / self.name

    def require_equal_microbatches(self, processes: int) -> None:
        """Refuse what several processes cannot compute exactly as a single one would.

        Raises:
            ConfigError: the images cannot be split evenly, or unrolling meets microbatches or
                gradient checkpointing.
        """
        parts = processes * self.accumulate
        if self.batch.images % parts:
            raise ConfigError.of(
                "batch.images",
                got=self.batch.images,
                expected=f"a multiple of {parts} ({processes} processes × {self.accumulate} parts)",
                fix="change batch.images, accumulate or the number of processes",
            )
        if self.bilevel.unroll_steps and (parts > 1 or self.gradient_checkpointing):
            raise ConfigError.of(
                "bilevel.unroll_steps",
                got=f"{self.bilevel.unroll_steps} with {processes} processes, accumulate="
                f"{self.accumulate} and gradient_checkpointing={self.gradient_checkpointing}",
                expected="one process, accumulate=1 and gradient_checkpointing=false",
                fix="set bilevel.unroll_steps=0: the hypergradient differentiates the gradient of "
                "a whole half-batch, which one pass must hold",
            )


def run_record(config: TrainConfig, samples: Sequence[Sample]) -> dict[str, Any]:
    """Identify a run by plain data; settings that may change between sessions are left out."""
    record: dict[str, Any] = {
        key: value for key, value in to_dict(config).items() if key not in FREE_TO_CHANGE
    }
    # The content, since the file behind the same path may have been replaced between sessions.
    record["base_sha256"] = base_digest(config.model.base)
    record["train_sha256"] = (
        samples.digest() if isinstance(samples, LazySamples) else digest_samples(samples)
    )
    return record
