"""Make the encoder's linear layers easy to quantise, without changing what it computes.

Eight bits are spent on the range of a layer's inputs, all channels together. What is constant in a
channel and what differs between channels wastes them, so both move into the layer itself:
W x + b = (W s) ((x − μ) / s) + (b + W μ), where the LayerNorm before it yields (x − μ) / s for
free. Scales are those of SmoothQuant at α = ½ with the standard deviation for the range:
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
from export.graphs.traceable import ExportableCpcSam
from export.real_images import Scene

__all__ = ["smooth_encoder"]

LEAST_DEVIATION: Final = 1e-3
LEAST_WEIGHT: Final = 1e-6


class _Inputs:
    """Running mean and variance of each channel of a layer's inputs."""

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
        return variance.clamp(min=LEAST_DEVIATION**2).sqrt()


@torch.no_grad()
def smooth_encoder(model: ExportableCpcSam, scenes: Sequence[Scene]) -> ExportableCpcSam:
    """Return a copy in which qkv and lin1 of every block have centred, evenly scaled inputs.

    Args:
        model: it stays as it is.
        scenes: real images, to measure the inputs on.
    """
    smooth = copy.deepcopy(model)
    encoder: Any = smooth.sam.image_encoder
    seen = {
        layer: _Inputs() for block in encoder.blocks for layer in (block.attn.qkv, block.mlp.lin1)
    }
    with ExitStack() as hooks:
        for layer, inputs in seen.items():
            hooks.callback(layer.register_forward_pre_hook(inputs).remove)
        for scene in scenes:
            CpcSam.encode_image(smooth, scene.image, scene.input_size)
    for block in encoder.blocks:
        # Windows are padded with zeros after the LayerNorm, which must still mean zero.
        _smooth(block.norm1, block.attn.qkv, seen[block.attn.qkv], shift=not block.window_size)
        _smooth(block.norm2, block.mlp.lin1, seen[block.mlp.lin1], shift=True)
    return smooth


def _smooth(norm: nn.LayerNorm, layer: nn.Linear, seen: _Inputs, shift: bool) -> None:
    scale = (seen.deviation() / layer.weight.abs().amax(0).clamp(min=LEAST_WEIGHT)).sqrt()
    scale = (scale / scale.log().mean().exp()).float()
    mean = seen.mean().float() if shift else torch.zeros_like(scale)
    norm.weight.div_(scale)
    norm.bias.sub_(mean).div_(scale)
    layer.bias.add_(layer.weight @ mean)
    layer.weight.mul_(scale)
