"""Noise for untrained models, so that comparing them proves something."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["fill_with_noise"]


@torch.no_grad()
def fill_with_noise(module: nn.Module, seed: int, scale: float = 0.02) -> None:
    """Fill zero-initialised parameters with noise, so that no comparison passes vacuously.

    Args:
        module: changed in place; SAM's positions and CaPL's last layers start at zero.
        seed: of the noise.
        scale: its standard deviation.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
