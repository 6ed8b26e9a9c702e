"""Official SAM in the form of segment-anything-fast, on a GPU.

Its steps on the image encoder: bfloat16, scaled dot-product attention with the relative positions
as a bias, and `torch.compile`. The decoder stays official, in bfloat16 under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn

from benchmarks.gpu.attention_forms import use_form
from benchmarks.peers.load.workloads import Request
from benchmarks.peers.systems.official import OfficialSegmenter, official_sam

__all__ = ["FastSegmenter", "fast_sam"]


def fast_sam(sam: Sam, device: torch.device, *, compiled: bool) -> Sam:
    """Replace the image encoder by its fast form, in place.

    Args:
        sam: official SAM in float32.
        device: moves the model there.
        compiled: compile the encoder for fixed shapes; minutes at its first call.
    """
    encoder: nn.Module = use_form(sam.image_encoder, "sdpa_bias").to(device, torch.bfloat16)
    if compiled:
        encoder = torch.compile(encoder, mode="max-autotune")  # type: ignore[assignment]
    sam.to(device)
    sam.image_encoder = _InBfloat16(encoder, sam.image_encoder.img_size)
    return sam


class _InBfloat16(nn.Module):
    """Encoder in bfloat16 between float32 tensors, with what SAM reads of an encoder."""

    def __init__(self, encoder: nn.Module, img_size: int) -> None:
        super().__init__()
        self.encoder, self.img_size = encoder, img_size

    def forward(self, x: Tensor) -> Tensor:
        """Encode (B, 3, S, S) float32 to (B, 256, G, G) float32."""
        embeddings: Tensor = self.encoder(x.to(torch.bfloat16))
        return embeddings.float()


class FastSegmenter(OfficialSegmenter):
    """`OfficialSegmenter` of the fast form on the GPU."""

    @classmethod
    def load(cls, weights: Path) -> FastSegmenter:
        """Load a base onto the first GPU, and compile its encoder."""
        return cls(fast_sam(official_sam(weights), torch.device("cuda"), compiled=True))

    def segment(self, request: Request) -> Sequence[NDArray[Any]]:
        """Predict masks; see `OfficialSegmenter.segment`."""
        with torch.autocast("cuda", torch.bfloat16):
            masks = super().segment(request)
        return [np.asarray(mask) for mask in masks]
