"""Configuration of the trained model: base, LoRA, CaPL and unfrozen parts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cpcsam.errors import ConfigError
from cpcsam.model.capl import CaplConfig
from cpcsam.model.lora import LoraConfig
from training.data.batches import BatchConfig

__all__ = ["UNFREEZE", "ModelConfig"]

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

    def with_needed_practice(self, batch: BatchConfig) -> BatchConfig:
        """Leave practice prompts out if CaPL moves no points and nothing learns from them."""
        moves_points = self.capl is not None and self.capl.task and self.capl.moves_points
        return batch if moves_points else replace(batch, practice=0)
