"""Configuration of a pretraining run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpcsam.config import to_dict
from training.pretraining.data import PretrainBatchConfig, PretrainData

__all__ = ["PretrainConfig"]


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
        lr: peak learning rate of AdamW.
        weight_decay: of matrices; vectors have none.
        warmup_steps: steps of linear warm-up before the cosine.
        ema: decay of the moving average of the weights, which is what is published.
        correction_every: steps from one whose loss is that of SAM's second round, prompted by the
            first round's mask and a correcting click, to the next such step.
        auxiliary_steps: steps over which the auxiliary head's weight falls from 1 to 0.
        bf16: compute in bfloat16 as torch's autocast does.
        checkpoint_every: steps between resumable states.
        evaluate_every: steps between scores on a quarter of the validation windows.
        data: real images, or none.
        batch: sampling of batches.
    """

    out: Path = Path("weights/vit_t")
    run: Path = Path("runs/pretrain")
    init: Path | None = None
    model_size: str = "vit_t"
    seed: int = 0
    steps: int = 8000
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 300
    ema: float = 0.999
    correction_every: int = 6
    auxiliary_steps: int = 4000
    bf16: bool = True
    checkpoint_every: int = 250
    evaluate_every: int = 1000
    data: PretrainData = field(default_factory=PretrainData)
    batch: PretrainBatchConfig = field(default_factory=PretrainBatchConfig)

    def recipe(self) -> dict[str, Any]:
        """Return the configuration as plain data, without the paths of this machine."""
        recipe: dict[str, Any] = to_dict(self)
        del recipe["out"], recipe["run"], recipe["init"], recipe["data"]["bbbc038"]
        return recipe
