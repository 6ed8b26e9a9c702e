"""Small torch models with every weight filled with noise, for tests."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from cpcsam.model.build_sam import ENCODERS, EncoderSize, build_sam_with
from cpcsam.model.capl import FULL_CAPL, CaPL, CaplConfig
from cpcsam.model.gated_points import GatedPointCalibration
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
    model = copy.deepcopy(_noisy_sam(image_size, seed, ENCODERS["vit_t"]))
    torch.manual_seed(seed)  # for what the caller draws, after the first call as after others
    return model


@cache
def _noisy_sam(image_size: int, seed: int, encoder: EncoderSize) -> CpcSam:
    torch.manual_seed(seed)  # of the matrix of positional encodings
    sam = build_sam_with(encoder, image_size)
    fill_with_noise(sam, seed)
    return CpcSam(sam.eval())


def noisy_cpcsam(image_size: int = 256, seed: int = 0, config: CaplConfig | None = None) -> CpcSam:
    """vit_t with random weights and a CaPL that is far from the identity, and moves all points."""
    model = noisy_sam(image_size, seed)
    model.capl = CaPL(config or FULL_CAPL)
    fill_with_noise(model.capl, seed + 1, scale=0.1)
    if model.capl.task is not None and isinstance(model.capl.task.points, GatedPointCalibration):
        _always_move(model.capl.task.points)
    return model.eval()


@torch.no_grad()
def _always_move(points: GatedPointCalibration) -> None:
    """Take no prompt to be right, and clicks to be meant to the left and above."""
    for network, stays in ((points.click, 1), (points.box, 4)):
        last = network[-1]
        assert isinstance(last, nn.Linear)
        last.weight[-stays:] = 0.0
        last.bias[-stays:] = -10.0
        if stays == 1:
            last.bias[0] += 5.0


def shallow_encoder(model_size: str) -> EncoderSize:
    """The encoder of a size with two blocks, the first in windows and the second global."""
    return replace(ENCODERS[model_size], depth=2, global_attn_indexes=(1,))


def windowed_cpcsam(image_size: int = 256, seed: int = 0, model_size: str = "vit_b") -> CpcSam:
    """As `noisy_cpcsam`, of another size with two blocks; windows of 14 do not divide the grid."""
    torch.manual_seed(seed)
    model = CpcSam(build_sam_with(shallow_encoder(model_size), image_size), CaPL(FULL_CAPL))
    fill_with_noise(model, seed)
    return model.eval()
