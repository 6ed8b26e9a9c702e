"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from benchmarks.comparison.methods.classical import ClassicalMethod
from benchmarks.comparison.methods.sam import (
    CAPL_TURNS,
    CARELESS,
    LORA,
    NO_CHANGE,
    SamMethod,
    with_capl,
)
from benchmarks.comparison.methods.semantic import SemanticMethod
from cpcsam.model.capl import CaplConfig
from cpcsam.model.lora import LoraConfig
from training.bilevel.config import ModelConfig
from training.bilevel.losses import LossConfig
from training.bilevel.step import BilevelConfig

__all__ = ["METHODS", "AnyMethod"]

AnyMethod = SamMethod | SemanticMethod | ClassicalMethod

VANILLA = SamMethod("Vanilla SAM", NO_CHANGE)
SAMED = SamMethod("SAMed")
MED_SA = SamMethod("Med-SA", ModelConfig(lora=LoraConfig(rank=0), capl=None), adapters=True)
BLO_SAM = SamMethod(
    "BLO-SAM",
    ModelConfig(lora=LORA, capl=None, prompt_embedding="phi"),
    bilevel=BilevelConfig(losses=LossConfig(beta=0)),
)
LORA_GROUPS = SamMethod("LoRA, K prompt groups", prompting=CARELESS, held_out=CARELESS)
CPC_SAM = replace(
    LORA_GROUPS,
    label="CPC-SAM",
    model=ModelConfig(lora=LORA, capl=CaplConfig()),
    bilevel=CAPL_TURNS,
)

METHODS: Mapping[str, AnyMethod] = MappingProxyType(
    {
        "otsu": ClassicalMethod("Otsu and watershed"),
        "deeplabv3": SemanticMethod("DeepLabV3", "deeplabv3"),
        "unet": SemanticMethod("U-Net", "unet"),
        "sam": VANILLA,
        "sam+capl": with_capl(VANILLA),
        "med-sa": MED_SA,
        "med-sa+capl": with_capl(MED_SA),
        "samed": SAMED,
        "samed+capl": with_capl(SAMED),
        "blo-sam": BLO_SAM,
        "blo-sam+capl": with_capl(BLO_SAM),
        "lora-groups": LORA_GROUPS,
        "cpc-sam": CPC_SAM,
    }
)
"""All methods, in the order of tables; NAME+capl is NAME with CaPL plugged in (Figure 13)."""
