"""Small torch models with every weight filled with noise, for tests."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import torch

from cpcsam.model.build_sam import ENCODERS, EncoderSize, build_sam, build_sam_with
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.sam import CpcSam
from export.accuracy.parity_grid import fill_with_noise

__all__ = [
    "fill_with_noise",
    "noisy_cpcsam",
    "noisy_sam",
    "shallow_encoder",
    "windowed_cpcsam",
]


def noisy_sam(image_size: int = 256, seed: int = 0) -> CpcSam:
    """vit_t with random weights, without CaPL."""
    torch.manual_seed(seed)
    return copy.deepcopy(_noisy_sam(image_size, seed))


@cache
def _noisy_sam(image_size: int, seed: int) -> CpcSam:
    sam = build_sam("vit_t", image_size)
    fill_with_noise(sam, seed)
    return CpcSam(sam.eval())


def noisy_cpcsam(image_size: int = 256, seed: int = 0, config: CaplConfig | None = None) -> CpcSam:
    """vit_t with random weights and a CaPL that is far from the identity."""
    model = noisy_sam(image_size, seed)
    model.capl = CaPL(config or CaplConfig())
    fill_with_noise(model.capl, seed + 1, scale=0.1)
    return model.eval()


def shallow_encoder(model_size: str) -> EncoderSize:
    """The encoder of a size with two blocks, the first in windows and the second global."""
    return replace(ENCODERS[model_size], depth=2, global_attn_indexes=(1,))


def windowed_cpcsam(image_size: int = 256, seed: int = 0, model_size: str = "vit_b") -> CpcSam:
    """As `noisy_cpcsam`, of another size with two blocks; windows of 14 do not divide the grid."""
    torch.manual_seed(seed)
    model = CpcSam(build_sam_with(shallow_encoder(model_size), image_size), CaPL(CaplConfig()))
    fill_with_noise(model, seed)
    return model.eval()
