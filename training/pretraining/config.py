"""Configuration of pretraining: data, batches and schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpcsam.checks import require_range
from cpcsam.config import to_dict
from cpcsam.scale import Scale
from training.data.augment import AugmentConfig
from training.data.prompt_sampling import PromptMix
from training.loop.precision import Precision

__all__ = ["PretrainBatchConfig", "PretrainConfig", "PretrainData"]


@dataclass(frozen=True)
class PretrainData:
    """Sources of real images and of drawings.

    Attributes:
        bbbc038: folder of BBBC038v1, None for synthetic scenes alone.
        vector_art: folder of openclipart-svg, whose drawings are composed to scenes while
            training; None for no such scenes.
        train_ids: file of ids to train on, relative to that folder; None takes all.
        val_ids: file of ids to score at the end.
        val_scenes: synthetic scenes to score instead if there are no real images, and as many
            of drawings that are not trained on.
    """

    bbbc038: Path | None = None
    vector_art: Path | None = None
    train_ids: str | None = "train.txt"
    val_ids: str | None = "val.txt"
    val_scenes: int = 20

    def __post_init__(self) -> None:
        """Refuse scores of nothing."""
        require_range("data.val_scenes", self.val_scenes, 1)


@dataclass(frozen=True)
class PretrainBatchConfig:
    """Sampling of a batch.

    Attributes:
        images: windows of a batch.
        prompts: prompts of a window.
        min_area: entities of fewer shown pixels get no prompt.
        synthetic_scenes: size of the pool of synthetic scenes.
        synthetic_share: their share of a batch if there are real images.
        vector_art_share: share of scenes of drawings in a batch, if there are drawings; half of
            them have whole drawings as entities and half the parts of drawings.
        vector_art_reuse: windows that are cut from a composed scene, on average.
        scale: of the windows, which have all scales by default.
        augment: augmentation of windows.
        prompt_mix: simulated annotator of entities.
    """

    images: int = 8
    prompts: int = 6
    min_area: int = 40
    synthetic_scenes: int = 512
    synthetic_share: float = 0.2
    vector_art_share: float = 0.3
    vector_art_reuse: int = 3
    scale: Scale = field(default_factory=lambda: Scale(128, 2.0))
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    prompt_mix: PromptMix = field(default_factory=PromptMix)

    def __post_init__(self) -> None:
        """Refuse batches without images or prompts, and shares outside [0, 1]."""
        for name in ("images", "prompts", "min_area", "synthetic_scenes", "vector_art_reuse"):
            require_range(f"batch.{name}", getattr(self, name), 1)
        for name in ("synthetic_share", "vector_art_share"):
            require_range(f"batch.{name}", getattr(self, name), 0, 1)


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run.

    Attributes:
        out: artifact folder that the base is published to.
        run: folder of the resumable state and of TensorBoard's files.
        init: a base to continue from, None for untrained weights.
        model_size: a key of `ENCODERS`.
        seed: of weights and batches.
        steps: optimiser steps.
        max_minutes: stop earlier, after this time; the schedule then follows the clock. null
            sets no limit.
        workers: processes that prepare batches; 0 prepares them in the training process.
        lr: peak learning rate of AdamW.
        weight_decay: of matrices; vectors have none.
        warmup_steps: steps of linear warm-up before the cosine.
        ema: decay of the moving average of the weights, which is what is published.
        correction_every: steps from one whose loss is that of SAM's second round, prompted by the
            first round's mask and a correcting click, to the next such step.
        auxiliary_steps: steps over which the auxiliary head's weight falls from 1 to 0.
        precision: bfloat16 trains in mixed precision, auto does so if the device has bfloat16
            instructions.
        checkpoint_every: steps between resumable states.
        evaluate_every: steps between scores on a quarter of the validation windows.
        data: real images and drawings, or none.
        batch: sampling of batches.
    """

    out: Path = Path("weights/vit_t")
    run: Path = Path("runs/pretrain")
    init: Path | None = None
    model_size: str = "vit_t"
    seed: int = 0
    steps: int = 8000
    max_minutes: float | None = None
    workers: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 300
    ema: float = 0.999
    correction_every: int = 6
    auxiliary_steps: int = 4000
    precision: Precision = "auto"
    checkpoint_every: int = 250
    evaluate_every: int = 1000
    data: PretrainData = field(default_factory=PretrainData)
    batch: PretrainBatchConfig = field(default_factory=PretrainBatchConfig)

    def __post_init__(self) -> None:
        """Refuse numbers that train nothing or that no run can have."""
        if self.max_minutes is not None:
            require_range("max_minutes", self.max_minutes, 0, above=True)
        for name in ("steps", "correction_every", "checkpoint_every", "evaluate_every"):
            require_range(name, getattr(self, name), 1)
        for name in ("seed", "workers", "weight_decay", "warmup_steps", "auxiliary_steps"):
            require_range(name, getattr(self, name), 0)
        require_range("lr", self.lr, 0, above=True)
        require_range("ema", self.ema, 0, 1, below=True)

    def recipe(self) -> dict[str, Any]:
        """Return the configuration as plain data, without paths and processes of this machine."""
        recipe: dict[str, Any] = to_dict(self)
        del recipe["out"], recipe["run"], recipe["init"], recipe["data"]["bbbc038"]
        del recipe["workers"]
        del recipe["data"]["vector_art"]
        if self.data.vector_art is None:
            del recipe["batch"]["vector_art_share"], recipe["batch"]["vector_art_reuse"]
        return recipe
