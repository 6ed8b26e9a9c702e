"""Untrained models to time: speed and memory depend on shapes, not on what weights have learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from benchmarks.gpu.attention_forms import add_relative_positions
from cpcsam.model.build_sam import ENCODERS, EncoderSize, build_sam_with
from cpcsam.model.capl import FULL_CAPL, CaPL
from cpcsam.model.sam import CpcSam

__all__ = ["FULL", "QUICK", "ModelSize", "random_model"]

NOISE: Final = 0.02


@dataclass(frozen=True)
class ModelSize:
    """Size of a model to time.

    Attributes:
        name: for records.
        encoder: width and depth of its encoder.
        image_size: side of the encoder's input in pixels.
    """

    name: str
    encoder: EncoderSize
    image_size: int


FULL: Final = ModelSize("vit_b", ENCODERS["vit_b"], 1024)
QUICK: Final = ModelSize("tiny", EncoderSize(64, 2, 1, (1,), 14, 256), 256)
"""A block with windows and a global one, narrow: CPUs emulate half precision, slowly."""


@torch.no_grad()
def random_model(size: ModelSize, *, capl: bool = False) -> CpcSam:
    """Build a model in float32 on the CPU, with seeded random weights that leave nothing at zero.

    Args:
        size: of its encoder.
        capl: add CaPL, far from the identity.
    """
    torch.manual_seed(0)
    sam = build_sam_with(size.encoder, size.image_size)
    # segment-anything leaves positions at zero, where every form of attention would agree.
    nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=NOISE)
    add_relative_positions(sam.image_encoder)
    model = CpcSam(sam)
    if capl:
        model.capl = CaPL(FULL_CAPL)
        for parameter in model.capl.parameters():
            nn.init.normal_(parameter, std=NOISE)
    return model.requires_grad_(False).eval()
