"""Configuration of a bi-level run, its model and optimiser; the record that a resume compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cpcsam.checks import require_range
from cpcsam.config import to_dict
from cpcsam.errors import ConfigError
from cpcsam.images.options import Intensity
from cpcsam.model.base_checkpoint import base_digest
from cpcsam.model.capl import CaplConfig
from cpcsam.model.lora import LoraConfig
from cpcsam.scale import Scale
from training.bilevel.step import BilevelConfig
from training.data.batches import BatchConfig
from training.data.datasets.items import LazySamples
from training.data.sample import Sample, digest_samples
from training.data.sources import DataConfig
from training.loop.optimizer import ParameterGroup, adamw, warmup_cosine

__all__ = ["ModelConfig", "OptimizerConfig", "TrainConfig", "UNFREEZE", "run_record"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for θ, for φ and for point calibration, and their common schedule.

    Weight decay is decoupled: inside the gradient a decay of 0.1 would drown the losses' own,
    which are means of small numbers.

    Attributes:
        lr: peak learning rate of θ.
        lr_capl: peak learning rate of φ.
        lr_points: peak learning rate of point calibration, the supervised part of φ.
        betas: decay rates of Adam's moving averages.
        weight_decay: of matrices; biases and norms are not decayed.
        warmup: share of the run during which the learning rates rise.
        final: share of the peak that the cosine ends at.
        clip_norm: largest norm of a group's gradient.
    """

    lr: float = 5e-3
    lr_capl: float = 5e-3
    lr_points: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.1
    warmup: float = 0.05
    final: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse rates that cannot train."""
        for name in ("lr", "lr_capl", "lr_points", "clip_norm"):
            require_range(f"optimizer.{name}", getattr(self, name), 0, above=True)
        for name in ("warmup", "final"):
            require_range(f"optimizer.{name}", getattr(self, name), 0, 1, below=True)
        for beta in self.betas:
            require_range("optimizer.betas", beta, 0, 1, below=True)
        require_range("optimizer.weight_decay", self.weight_decay, 0)

    def lr_factor(self, progress: float) -> float:
        """Return the schedule's factor in [0, 1] at a progress in [0, 1]."""
        return warmup_cosine(progress, self.warmup, final=self.final)

    def group(self, parameters: dict[str, nn.Parameter], lr: float) -> ParameterGroup:
        """Give parameters, by name, an AdamW of this configuration.

        Args:
            parameters: to update.
            lr: their peak learning rate.
        """
        optimizer = adamw(
            parameters.values(), lr=lr, betas=self.betas, weight_decay=self.weight_decay
        )
        return ParameterGroup(parameters, optimizer, self.clip_norm)


UNFREEZE = (
    "mask_tokens",
    "iou_token",
    "output_hypernetworks_mlps",
    "iou_prediction_head",
    "output_upscaling",
)


@dataclass(frozen=True)
class ModelConfig:
    """Modules added to the base, and the parameters that are trained.

    Attributes:
        base: an artifact of kind `checkpoint`, or an official SAM checkpoint.
        image_size: side S in pixels; null keeps the base's.
        lora: layers that get LoRA, and its rank; `lora.rank=0` leaves it out.
        capl: modules of CaPL; null leaves it out.
        unfreeze: parts of the mask decoder that are trained with all their weights.
        full_finetuning: train all of SAM instead; LoRA must be left out.
        prompt_embedding: whether SAM's embedding of "no mask" is trained, with θ (soft prompt
            tuning) or with φ on the held-out half (BLO-SAM).
    """

    base: Path = Path("weights/vit_t")
    image_size: int | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    capl: CaplConfig | None = field(default_factory=CaplConfig)
    unfreeze: tuple[str, ...] = UNFREEZE
    full_finetuning: bool = False
    prompt_embedding: Literal["frozen", "theta", "phi"] = "frozen"

    def __post_init__(self) -> None:
        """Refuse LoRA on weights that are trained themselves."""
        if self.full_finetuning and self.lora.rank:
            raise ConfigError.of(
                "model.lora.rank",
                got=self.lora.rank,
                expected="0 with full_finetuning",
                fix="set model.lora.rank=0",
            )

    @property
    def fills_phi(self) -> bool:
        """Whether anything is trained on the held-out half; point calibration is not."""
        capl = self.capl
        calibrates = capl is not None and (capl.entity or (capl.task and capl.reweights))
        return calibrates or self.prompt_embedding == "phi"

    def with_needed_practice(self, batch: BatchConfig) -> BatchConfig:
        """Leave practice prompts out if CaPL moves no points and nothing learns from them."""
        moves_points = self.capl is not None and self.capl.task and self.capl.moves_points
        return batch if moves_points else replace(batch, practice=0)


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
        steps: bi-level steps; null takes what suits the number of training images.
        max_minutes: stop earlier, after this time; the schedule then follows the clock. null
            sets no limit.
        precision: bfloat16 runs the model in mixed precision, auto does so if the device has
            bfloat16 instructions; float64 is for exact comparisons.
        accumulate: microbatches that a process splits its share of a half-batch into; more take
            less memory and give the same gradients.
        gradient_checkpointing: recompute the image encoder's blocks in backward, which takes
            less memory and more time.
        workers: processes that prepare batches; 0 prepares them in the training process.
        evaluate_every: steps between validations; there is always one at the end.
        checkpoint_every: steps between saves of the full state.
        patience: validations without a better model after which training ends early; null
            trains to the end.
        find_scale: before training, replace `scale.window` by the one at which the base segments
            the training images best.
        scale: of the windows that are trained and validated on, recorded as the model's.
        resume: continue the run from its last checkpoint, if it has one.
        overwrite: start over although the run exists.
        intensity: policy for images of more than 8 bits, recorded in the run's manifest, which
            export and serving follow.
    """

    name: str
    out: Path = Path("runs")
    seed: int = 0
    steps: int | None = 1000
    max_minutes: float | None = None
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "float32"
    accumulate: int = 1
    gradient_checkpointing: bool = False
    workers: int = 1
    evaluate_every: int = 100
    checkpoint_every: int = 100
    patience: int | None = None
    find_scale: bool = False
    scale: Scale = field(default_factory=Scale)
    resume: bool = False
    overwrite: bool = False
    intensity: Intensity = field(default_factory=Intensity)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    bilevel: BilevelConfig = field(default_factory=BilevelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Refuse impossible numbers, unequal microbatches and what contradicts."""
        for name in ("steps", "evaluate_every", "checkpoint_every", "accumulate", "patience"):
            if getattr(self, name) is not None:
                require_range(name, getattr(self, name), 1)
        for name in ("seed", "workers"):
            require_range(name, getattr(self, name), 0)
        if self.max_minutes is not None:
            require_range("max_minutes", self.max_minutes, 0, above=True)
        if self.resume and self.overwrite:
            raise ConfigError.of(
                "resume and overwrite",
                got="both true",
                expected="at most one",
                fix="leave overwrite out to continue the run, or resume to start over",
            )
        self.require_equal_microbatches(processes=1)

    @property
    def planned_steps(self) -> int:
        """Number of steps, once `training.bilevel.plan.planned` has settled it."""
        assert self.steps is not None
        return self.steps

    @property
    def folder(self) -> Path:
        """Folder of the run's `best`, `last.pt` and `tensorboard`."""
        return self.out / self.name

    def require_effect(self) -> None:
        """Refuse values that do nothing; runs that were begun with such go on.

        Raises:
            ConfigError: keys of φ without φ.
        """
        changed = self.bilevel.changed_for_phi
        if changed and not self.model.fills_phi:
            raise ConfigError.of(
                " and ".join(changed),
                got="values without effect, as nothing is trained on the held-out half",
                expected="a model that has φ",
                fix="set model.capl.reweights=true, model.capl.entity=true or "
                "model.prompt_embedding=phi, or leave these keys out",
            )

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
    # By name, as they were recorded before validation could take training's.
    train, validation = config.data.train, config.data.validation.or_else(config.data.train)
    for name, source in (("train", train), ("validation", validation)):
        record["data"][name]["classes"] = source.classes or "base"
    # The content, since the file behind the same path may have been replaced between sessions.
    record["base_sha256"] = base_digest(config.model.base)
    record["train_sha256"] = (
        samples.digest() if isinstance(samples, LazySamples) else digest_samples(samples)
    )
    return record
