"""State of a bi-level run: the model, parameter groups θ, φ and points, and the counters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cpcsam.errors import ConfigError, TrainingError
from cpcsam.model.capl import CaPL
from cpcsam.model.lora import inject_lora, is_lora_parameter
from cpcsam.model.sam import CpcSam
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.forward import Forward
from training.bilevel.step import BilevelConfig, bilevel_step
from training.data.prompt_batch import Halves
from training.loop.learning_curve import ValidationScores
from training.loop.optimizer import ParameterGroup, set_lr
from training.loop.train_state import TrainState

__all__ = ["PROMPT_EMBEDDING", "BilevelState", "new_bilevel_state"]

POINTS = "capl.task.points."
PROMPT_EMBEDDING = "sam.prompt_encoder.no_mask_embed.weight"


@dataclass
class BilevelState(TrainState):
    """Model, parameter groups with their optimizers, and progress counters.

    Attributes:
        forward: the model.
        theta: LoRA and unfrozen parts.
        phi: CaPL without point calibration.
        points: point calibration.
        validations: so far; the first is of the untrained model, which equals the base.
    """

    forward: Forward
    theta: ParameterGroup
    phi: ParameterGroup
    points: ParameterGroup
    validations: list[ValidationScores] = field(default_factory=list)

    @property
    def model(self) -> CpcSam:
        """The model itself."""
        return self.forward.model

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """All trained parameters, by name."""
        return {**self.theta.parameters, **self.phi.parameters, **self.points.parameters}

    def set_learning_rates(self, config: OptimizerConfig, progress: float) -> float:
        """Apply the schedule at a progress in [0, 1]; return its factor in [0, 1]."""
        factor = config.lr_factor(progress)
        set_lr(self.theta.optimizer, config.lr * factor)
        set_lr(self.phi.optimizer, config.lr_capl * factor)
        set_lr(self.points.optimizer, config.lr_points * factor)
        return factor

    def train_step(
        self, halves: Halves, bilevel: BilevelConfig, accumulate: int = 1
    ) -> dict[str, float]:
        """Train by one step and count it; as `bilevel_step`."""
        metrics = bilevel_step(
            self.forward,
            self.theta,
            self.phi,
            self.points,
            halves,
            bilevel,
            accumulate,
            self.step,
        )
        self.step += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimiser state of each group, and the counters."""
        groups = self._groups().items()
        return {
            **{
                key: {name: parameter.detach() for name, parameter in group.parameters.items()}
                for key, group in groups
            },
            **{f"{key}_optimizer": group.optimizer.state_dict() for key, group in groups},
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "validations": [[*scores] for scores in self.validations],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Copy in what `state_dict` returned."""
        for key, group in self._groups().items():
            for name, parameter in group.parameters.items():
                # In place, as the optimiser refers to these very tensors.
                parameter.data.copy_(saved[key][name])
            group.optimizer.load_state_dict(saved[f"{key}_optimizer"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self.validations = [ValidationScores(*scores) for scores in saved["validations"]]

    def _groups(self) -> dict[str, ParameterGroup]:
        return {"theta": self.theta, "phi": self.phi, "points": self.points}


def new_bilevel_state(
    model: CpcSam,
    config: ModelConfig,
    optimizer: OptimizerConfig,
    *,
    seed: int,
    bf16: bool,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    is_in_theta: Callable[[str], bool] = is_lora_parameter,
) -> BilevelState:
    """Add CaPL and LoRA to a base, in place, and group the parameters to train.

    Args:
        model: the base, on the CPU.
        config: added modules and trained parameters.
        optimizer: configuration of the optimisers.
        seed: decides the initial weights, the same on every device and in every precision.
        bf16: run the model in mixed precision.
        dtype: of the weights, float32 or float64.
        device: of the weights; None stays on the CPU.
        is_in_theta: returns whether a parameter belongs to θ by its name; unfrozen parts do anyway.

    Raises:
        ConfigError: an unknown part to unfreeze, or LoRA on layers that do not exist.
        TrainingError: no parameter would be trained.
    """
    torch.manual_seed(seed)
    inject_lora(model, config.lora)
    model.capl = None if config.capl is None else CaPL(config.capl)
    # Only after initialisation: random numbers differ between devices and dtypes.
    model.to(device, dtype)
    model.sam.prompt_encoder.pe_layer.float()  # SAM lays its grid of positions in float32
    parts = tuple(f"sam.mask_decoder.{_require_part(model, part)}." for part in config.unfreeze)
    prefixes = ("sam.",) if config.full_finetuning else parts
    theta, phi, points = {}, {}, {}
    for name, parameter in model.named_parameters():
        learned = config.prompt_embedding if name == PROMPT_EMBEDDING else "frozen"
        # Tested first, as these names also begin with "capl.".
        if name.startswith(POINTS):
            points[name] = parameter
        elif name.startswith("capl.") or learned == "phi":
            phi[name] = parameter
        elif is_in_theta(name):
            theta[name] = parameter
        elif name.startswith(prefixes) or learned == "theta":
            theta[name] = parameter
        parameter.requires_grad_(name in theta or name in phi or name in points)
    if not (theta or phi or points):
        raise TrainingError.of(
            "model",
            got="no LoRA, no unfrozen part, no learned prompt embedding and no CaPL",
            expected="something that learns",
            fix="set model.lora.rank, model.unfreeze, model.prompt_embedding or model.capl",
        )
    return BilevelState(
        Forward(model, bf16=bf16),
        optimizer.group(theta, optimizer.lr),
        optimizer.group(phi, optimizer.lr_capl),
        optimizer.group(points, optimizer.lr_points),
    )


def _require_part(model: CpcSam, part: str) -> str:
    parts = [name for name, _ in model.sam.mask_decoder.named_children()]
    if part not in parts:
        raise ConfigError.of(
            "model.unfreeze", got=part, expected=" | ".join(parts), fix="choose among them"
        )
    return part
