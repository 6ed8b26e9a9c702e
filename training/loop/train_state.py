"""Who learns: the model prepared for training, and its parameters θ and φ."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ArtifactError, ConfigError, CpcSamError, TrainingError
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.lora import LoraConfig, inject_lora, is_lora_parameter
from cpcsam.model.sam import CpcSam
from training.bilevel.optimizer import Group, OptimizerConfig, new_group, schedule
from training.bilevel.step import BilevelConfig, Forward, bilevel_step
from training.data.batches import BatchConfig, Halves

__all__ = [
    "UNFREEZE",
    "Learner",
    "ModelConfig",
    "new_learner",
]

UNFREEZE = (
    "mask_tokens",
    "iou_token",
    "output_hypernetworks_mlps",
    "iou_prediction_head",
    "output_upscaling",
)
POINTS = "capl.task.points."
PROMPT_EMBEDDING = "sam.prompt_encoder.no_mask_embed.weight"


@dataclass(frozen=True)
class ModelConfig:
    """What is added to the base and what of it learns.

    Attributes:
        base: an artifact of kind `checkpoint`, or an official SAM checkpoint.
        image_size: side S in pixels; null keeps the base's.
        lora: where LoRA goes; `lora.rank=0` leaves it out.
        capl: what CaPL is made of; null leaves it out.
        unfreeze: parts of the mask decoder that learn with all their weights.
        full_finetuning: all of SAM learns instead; LoRA must be left out.
        prompt_embedding: whether SAM's embedding of "no mask" learns, with θ (soft prompt
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
        """Refuse LoRA on weights that learn themselves."""
        if self.full_finetuning and self.lora.rank:
            raise ConfigError.of(
                "model.lora.rank",
                got=self.lora.rank,
                expected="0 with full_finetuning",
                fix="set model.lora.rank=0",
            )

    def with_needed_practice(self, batch: BatchConfig) -> BatchConfig:
        """Leave practice prompts out where CaPL moves no points and nothing learns from them."""
        moves_points = self.capl is not None and self.capl.task and self.capl.moves_points
        return batch if moves_points else replace(batch, practice=0)


@dataclass
class Learner:
    """A model in training.

    Attributes:
        forward: the model.
        theta: LoRA and unfrozen parts.
        phi: CaPL without what moves points.
        points: what moves points.
        step: steps done.
        elapsed_s: seconds spent so far, in all sessions.
        base_dice: validation Dice of the untrained model, the base's.
        best_dice: best validation Dice since.
    """

    forward: Forward
    theta: Group
    phi: Group
    points: Group
    step: int = 0
    elapsed_s: float = 0.0
    base_dice: float = -1.0
    best_dice: float = -1.0

    @property
    def model(self) -> CpcSam:
        """The model itself."""
        return self.forward.model

    def set_learning_rates(self, config: OptimizerConfig, progress: float) -> float:
        """Apply the schedule; return its factor in [0, 1]."""
        factor = schedule(config, progress)
        for group, peak in (
            (self.theta, config.lr),
            (self.phi, config.lr_capl),
            (self.points, config.lr_points),
        ):
            for parameters in group.optimizer.param_groups:
                parameters["lr"] = peak * factor
        return factor

    def take_step(
        self, halves: Halves, bilevel: BilevelConfig, accumulate: int = 1
    ) -> dict[str, float]:
        """Train by one step and count it; as `bilevel_step`."""
        figures = bilevel_step(
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
        return figures

    def save(self, path: Path, config: Mapping[str, Any]) -> None:
        """Write everything that a resumed run needs, atomically.

        Args:
            path: the file.
            config: plain data that `restore` compares.
        """
        buffer = io.BytesIO()
        torch.save({"config": dict(config), "rng": torch.get_rng_state(), **self._state()}, buffer)
        write_atomic(path, buffer.getvalue())

    def restore(self, path: Path, config: Mapping[str, Any]) -> None:
        """Take up what `save` wrote.

        Raises:
            ArtifactError: the file is unreadable or of another model.
            ConfigError: the run was begun with another configuration.
        """
        try:
            saved = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged pickle can raise anything
            raise _unreadable(path, error) from error
        try:
            _require_same(saved["config"], config)
            for name, group in self._groups().items():
                for key, parameter in group.parameters.items():
                    parameter.data.copy_(saved[name][key])
                group.optimizer.load_state_dict(saved[f"{name}_optimizer"])
            torch.set_rng_state(saved["rng"])
            self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
            self.base_dice, self.best_dice = saved["base_dice"], saved["best_dice"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _unreadable(path, error) from error

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that learns, by name."""
        return {**self.theta.parameters, **self.phi.parameters, **self.points.parameters}

    def _groups(self) -> dict[str, Group]:
        return {"theta": self.theta, "phi": self.phi, "points": self.points}

    def _state(self) -> dict[str, Any]:
        groups = self._groups().items()
        return {
            **{
                key: {name: parameter.detach() for name, parameter in group.parameters.items()}
                for key, group in groups
            },
            **{f"{key}_optimizer": group.optimizer.state_dict() for key, group in groups},
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "base_dice": self.base_dice,
            "best_dice": self.best_dice,
        }


def _unreadable(path: Path, error: Exception) -> CpcSamError:
    return ArtifactError.of(
        str(path),
        got=f"an unreadable file ({type(error).__name__}: {error})",
        expected="the state of a run of this configuration",
        fix="begin anew with overwrite=true",
    )


def _require_same(saved: Any, config: Any, where: str = "") -> None:
    """Name the first key at which a run's configuration differs from the one it was begun with."""
    if isinstance(saved, Mapping) and isinstance(config, Mapping):
        for key in sorted({*saved, *config}):
            _require_same(saved.get(key), config.get(key), f"{where}.{key}" if where else key)
    elif saved != config:
        raise ConfigError.of(
            where,
            got=config,
            expected=f"{saved}, which the run was begun with",
            fix="restore it, or begin anew with overwrite=true",
        )


def new_learner(
    model: CpcSam,
    config: ModelConfig,
    optimizer: OptimizerConfig,
    *,
    seed: int,
    bf16: bool,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    is_in_theta: Callable[[str], bool] = is_lora_parameter,
) -> Learner:
    """Add CaPL and LoRA to a base, in place, and mark what learns.

    Args:
        model: the base, on the CPU.
        config: what is added and what learns.
        optimizer: its recipe.
        seed: decides the initial weights, the same on every device and in every precision.
        bf16: run the model in mixed precision.
        dtype: of the weights, float32 or float64.
        device: where they go; None stays on the CPU.
        is_in_theta: whether a parameter belongs to θ by its name, beside the unfrozen parts.

    Raises:
        ConfigError: an unknown part to unfreeze, or LoRA on layers that do not exist.
        TrainingError: nothing would learn.
    """
    torch.manual_seed(seed)
    inject_lora(model, config.lora)
    model.capl = None if config.capl is None else CaPL(config.capl)
    model.to(device, dtype)
    model.sam.prompt_encoder.pe_layer.float()  # SAM lays its grid of positions in float32
    parts = tuple(f"sam.mask_decoder.{_require_part(model, part)}." for part in config.unfreeze)
    prefixes = ("sam.",) if config.full_finetuning else parts
    theta, phi, points = {}, {}, {}
    for name, parameter in model.named_parameters():
        learned = config.prompt_embedding if name == PROMPT_EMBEDDING else "frozen"
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
    return Learner(
        Forward(model, bf16=bf16),
        new_group(theta, optimizer, optimizer.lr),
        new_group(phi, optimizer, optimizer.lr_capl),
        new_group(points, optimizer, optimizer.lr_points),
    )


def _require_part(model: CpcSam, part: str) -> str:
    parts = [name for name, _ in model.sam.mask_decoder.named_children()]
    if part not in parts:
        raise ConfigError.of(
            "model.unfreeze", got=part, expected=" | ".join(parts), fix="choose among them"
        )
    return part
