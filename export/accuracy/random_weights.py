"""Random weights for untrained models in parity tests."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["fill_with_noise"]


@torch.no_grad()
def fill_with_noise(module: nn.Module, seed: int, scale: float = 0.02) -> None:
    """Replace zero-initialised parameters by Gaussian noise, so that no comparison is vacuous.

    Args:
        module: changed in place; SAM's positions and CaPL's last layers are zero-initialised.
        seed: of the noise.
        scale: standard deviation of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
