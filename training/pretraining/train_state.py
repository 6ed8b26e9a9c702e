"""State of a pretraining run: model, auxiliary head, optimiser and averaged weights (EMA)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cpcsam.errors import TrainingError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.build_sam import build_sam
from cpcsam.model.sam import CpcSam
from training.loop.optimizer import adamw, set_lr, warmup_cosine
from training.loop.precision import is_mixed
from training.loop.train_state import TrainState
from training.pretraining.config import PretrainConfig
from training.pretraining.data import PretrainBatch
from training.pretraining.loss import AuxiliaryHead, batch_loss

__all__ = ["PretrainState", "learning_rate", "new_pretrain_state"]

BETAS = (0.9, 0.98)
CLIP_NORM = 1.0


def learning_rate(config: PretrainConfig, step: float) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine to zero.

    Args:
        config: the run.
        step: of `config.steps`; a run with a time limit lies between two of them.
    """
    # The first step would otherwise have a learning rate of 0.
    position = step + 1 if step < config.warmup_steps else step
    total = max(config.steps, config.warmup_steps + 1)
    return warmup_cosine(position, config.warmup_steps, total, peak=config.lr)


@dataclass
class PretrainState(TrainState):
    """Model, auxiliary head, moving average of the weights, optimiser and progress counters."""

    start_over: ClassVar[str] = "give another run=FOLDER"

    model: CpcSam
    head: AuxiliaryHead
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    def train_step(
        self, batch: PretrainBatch, config: PretrainConfig, progress: float = 0.0
    ) -> dict[str, float]:
        """Train by one step, update the moving average and count the step.

        Args:
            batch: on the device of the model.
            config: the run.
            progress: used share of the budget in [0, 1], which the schedule follows if the run
                has a time limit.

        Raises:
            TrainingError: the loss is not finite; nothing was updated.
        """
        step = self.step
        planned = step if config.max_minutes is None else max(step, progress * config.steps)
        set_lr(self.optimizer, learning_rate(config, planned))
        fade = config.auxiliary_steps
        auxiliary = max(0.0, 1 - planned / fade) if fade else 0.0
        correct = planned >= config.warmup_steps and step % config.correction_every == 0
        self.model.train()
        device = batch.image.device
        mixed = is_mixed(config.precision, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss, metrics = batch_loss(
                self.model, self.head, batch, correct=correct, auxiliary=auxiliary
            )
        if not math.isfinite(metrics["loss"]):
            raise TrainingError.of(
                f"step {step}",
                got="a non-finite loss",
                expected="a number",
                fix="lower lr and resume",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        # Starts low, so that the average forgets the untrained weights (as in TensorFlow's EMA).
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        self.step += 1
        return metrics

    def averaged(self) -> CpcSam:
        """Build a model of the moving average of the weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average)
        return model.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moving average, optimiser state and counters."""
        return {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Copy in what `state_dict` returned."""
        self.model.load_state_dict(saved["model"])
        self.head.load_state_dict(saved["head"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average = {
            name: value.to(self.average[name].device) for name, value in saved["average"].items()
        }
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]


def new_pretrain_state(config: PretrainConfig, device: torch.device | None = None) -> PretrainState:
    """Build the state before the first step: seeded untrained weights, or the base in `init`.

    Args:
        config: the run.
        device: of the weights; None stays on the CPU, whose random numbers decide them anyway.
    """
    torch.manual_seed(config.seed)
    if config.init is None:
        model = CpcSam(build_sam(config.model_size))
        for name, parameter in model.named_parameters():
            # SAM leaves them at zero, to be overwritten by a checkpoint.
            if name.endswith("pos_embed"):
                nn.init.trunc_normal_(parameter, std=0.02)
    else:
        model = load_base(config.init, config.model_size)
    head = AuxiliaryHead().to(device)
    model.to(device)
    optimizer = adamw(
        [*model.parameters(), *head.parameters()],
        lr=config.lr,
        betas=BETAS,
        weight_decay=config.weight_decay,
    )
    average = {name: value.clone() for name, value in model.state_dict().items()}
    return PretrainState(model, head, average, optimizer)
