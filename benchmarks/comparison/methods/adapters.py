"""Bottleneck adapters in SAM's blocks, as Med-SA has them, for comparison.

Each encoder block gets a serial adapter after its attention and a parallel one at its MLP; each
block of the decoder's transformer a serial one after either cross-attention and a parallel one at
its MLP. Med-SA's third dimension is for volumes, and its hyper-prompting, which scales an adapter
by the prompt, is left out: the decoder's adapters act on prompt tokens, so they see the prompt
anyway.
"""

from __future__ import annotations

from torch import Tensor, nn

from cpcsam.model.lora import is_lora_parameter
from cpcsam.model.sam import CpcSam

__all__ = ["AdaptedLayer", "insert_adapters", "is_adapter_parameter", "is_in_theta"]

PARALLEL_SCALE = 0.5
"""Scale of Med-SA's parallel adapter at the MLP."""
BOTTLENECK = 4
"""Ratio of the layer's width to the adapter's."""


class AdaptedLayer(nn.Module):
    """A layer with a serial or parallel bottleneck adapter, zero-initialised to the identity.

    Args:
        layer: adapted layer, from width to width or, if `serial`, from any width.
        width: of its output.
        serial: the adapter reads the layer's output instead of its input.
    """

    def __init__(self, layer: nn.Module, width: int, *, serial: bool) -> None:
        super().__init__()
        self.layer = layer
        self.serial = serial
        hidden = max(1, width // BOTTLENECK)
        self.adapter = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        for parameter in self.adapter[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output plus the adapter's."""
        out: Tensor = self.layer(x)
        adapted: Tensor = self.adapter(out) if self.serial else PARALLEL_SCALE * self.adapter(x)
        return out + adapted


def insert_adapters(model: CpcSam) -> None:
    """Add adapters to the image encoder's and the mask decoder's blocks, in place."""
    for block in model.sam.image_encoder.blocks:
        width = block.attn.proj.out_features
        block.attn.proj = AdaptedLayer(block.attn.proj, width, serial=True)
        block.mlp = AdaptedLayer(block.mlp, width, serial=False)
    transformer = model.sam.mask_decoder.transformer
    for layer in transformer.layers:
        width = transformer.embedding_dim
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            attention.out_proj = AdaptedLayer(attention.out_proj, width, serial=True)
        layer.mlp = AdaptedLayer(layer.mlp, width, serial=False)


def is_adapter_parameter(name: str) -> bool:
    """Return whether `insert_adapters` added the parameter, by its name."""
    return ".adapter." in name


def is_in_theta(name: str) -> bool:
    """Return whether a parameter belongs to θ (LoRA or adapters), by its name."""
    return is_lora_parameter(name) or is_adapter_parameter(name)
