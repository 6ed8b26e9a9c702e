"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from benchmarks.comparison.methods.classical import ClassicalMethod
from benchmarks.comparison.methods.clip.lseg import LSegMethod
from benchmarks.comparison.methods.clip.proposals import RegionMethod
from benchmarks.comparison.methods.clip.zs3net import Zs3Method
from benchmarks.comparison.methods.detection import DetectionMethod
from benchmarks.comparison.methods.few_shot.method import FewShotMethod
from benchmarks.comparison.methods.ritm import RitmMethod
from benchmarks.comparison.methods.sam import (
    CAPL_TURNS,
    CARELESS,
    LORA,
    NO_CHANGE,
    SamMethod,
    with_capl,
)
from benchmarks.comparison.methods.semantic import SemanticMethod
from cpcsam.model.capl import FULL_CAPL
from cpcsam.model.lora import LoraConfig
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.losses import LossConfig
from training.bilevel.step import BilevelConfig

__all__ = ["METHODS", "PAPER_SYSTEMS", "AnyMethod", "ClipMethod"]

ClipMethod = RegionMethod | LSegMethod | Zs3Method
AnyMethod = (
    SamMethod
    | SemanticMethod
    | RitmMethod
    | DetectionMethod
    | FewShotMethod
    | ClassicalMethod
    | ClipMethod
)

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
    model=ModelConfig(lora=LORA, capl=FULL_CAPL),
    bilevel=CAPL_TURNS,
)

METHODS: Mapping[str, AnyMethod] = MappingProxyType(
    {
        "otsu": ClassicalMethod("Otsu and watershed"),
        "deeplabv3": SemanticMethod("DeepLabV3", "deeplabv3"),
        "unet": SemanticMethod("U-Net", "unet"),
        "swin-unet": SemanticMethod("SwinUnet", "swin-unet", optimizer=OptimizerConfig(lr=5e-4)),
        "vitdet": DetectionMethod("ViTDet"),
        "hsnet": FewShotMethod("HSNet", "hsnet"),
        "ssp": FewShotMethod("SSP", "ssp"),
        "ritm": RitmMethod("RITM, a click on each entity"),
        "sam": VANILLA,
        "sam+capl": with_capl(VANILLA),
        "med-sa": MED_SA,
        "med-sa+capl": with_capl(MED_SA),
        "samed": SAMED,
        "samed+capl": with_capl(SAMED),
        "blo-sam": BLO_SAM,
        "blo-sam+capl": with_capl(BLO_SAM),
        "ovsam": RegionMethod("OVSAM", "ovsam"),
        "zs3net": Zs3Method("ZS3Net"),
        "lseg": LSegMethod("LSeg"),
        "zegformer": RegionMethod("ZegFormer", "zegformer"),
        "openseg": RegionMethod("OpenSeg", "openseg"),
        "ovseg": RegionMethod("OVSeg", "ovseg"),
        "lora-groups": LORA_GROUPS,
        "cpc-sam": CPC_SAM,
    }
)
"""All methods, in the order of tables; NAME+capl is NAME with CaPL plugged in (Figure 13)."""

PAPER_SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "DeepLabV3": "deeplabv3",
        "SwinUnet": "swin-unet",
        "RITM": "ritm",
        "ViTDet-H": "vitdet",
        "HSNet": "hsnet",
        "SSP": "ssp",
        "Vanilla SAM": "sam",
        "Med-SA": "med-sa",
        "SAMed": "samed",
        "BLO-SAM": "blo-sam",
        "OVSAM": "ovsam",
        "ZS3Net": "zs3net",
        "LSeg": "lseg",
        "ZegFormer": "zegformer",
        "OpenSeg": "openseg",
        "OVSeg": "ovseg",
        "CPC-SAM": "cpc-sam",
    }
)
"""The systems of the paper's tables, with the names of their methods here."""
