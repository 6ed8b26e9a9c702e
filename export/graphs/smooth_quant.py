"""SmoothQuant for the image encoder: rescale linear layers for int8 without changing the outputs.

An int8 scale covers the range of a layer's inputs over all channels, so a channel's constant offset
and differences between channels waste bits. Both move into the weights:
W x + b = (W s) ((x − μ) / s) + (b + W μ), where the preceding LayerNorm yields (x − μ) / s at no
cost. The scales are SmoothQuant's at α = ½ with the standard deviation as the range:
s = √(σ / max |W|).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

import torch
from torch import Tensor, nn

from cpcsam.model.sam import CpcSam
from export.graphs.traceable import TraceableCpcSam
from export.real_images import Scene

__all__ = ["smooth_encoder"]

MIN_DEVIATION: Final = 1e-3
MIN_WEIGHT: Final = 1e-6


class _InputStatistics:
    """Running mean and variance of each input channel of a layer, as a forward pre-hook."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2).double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def mean(self) -> Tensor:
        return self.total / self.count

    def deviation(self) -> Tensor:
        variance = self.squares / self.count - self.mean().square()
        return variance.clamp(min=MIN_DEVIATION**2).sqrt()


@torch.no_grad()
def smooth_encoder(model: TraceableCpcSam, scenes: Sequence[Scene]) -> TraceableCpcSam:
    """Return a copy in which qkv and lin1 of every block have centred, evenly scaled inputs.

    Args:
        model: float32; left unchanged.
        scenes: real images for calibration, at least one.
    """
    smooth = copy.deepcopy(model)
    encoder: Any = smooth.sam.image_encoder
    statistics = {
        layer: _InputStatistics()
        for block in encoder.blocks
        for layer in (block.attn.qkv, block.mlp.lin1)
    }
    with ExitStack() as hooks:
        for layer, inputs in statistics.items():
            hooks.callback(layer.register_forward_pre_hook(inputs).remove)
        for scene in scenes:
            CpcSam.encode_image(smooth, scene.image, scene.input_size)
    for block in encoder.blocks:
        qkv, lin1 = block.attn.qkv, block.mlp.lin1
        # Windows are padded as if by zeros after the LayerNorm, so there zero must still mean zero.
        _smooth(block.norm1, qkv, statistics[qkv], shift=not block.attn.window_size)
        _smooth(block.norm2, lin1, statistics[lin1], shift=True)
    return smooth


def _smooth(norm: nn.LayerNorm, layer: nn.Linear, inputs: _InputStatistics, shift: bool) -> None:
    scale = (inputs.deviation() / layer.weight.abs().amax(0).clamp(min=MIN_WEIGHT)).sqrt()
    # A geometric mean of 1 leaves the magnitudes of weights and inputs as they were.
    scale = (scale / scale.log().mean().exp()).float()
    mean = inputs.mean().float() if shift else torch.zeros_like(scale)
    norm.weight.div_(scale)
    norm.bias.sub_(mean).div_(scale)
    layer.bias.add_(layer.weight @ mean)
    layer.weight.mul_(scale)
