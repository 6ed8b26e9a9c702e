"""Equal forms of the image encoder's attention with decomposed relative positions.

segment-anything adds rel_h(q, row of k) + rel_w(q, column of k) to the logits of every block, which
no fused kernel of attention takes as such. Two forms fit such a kernel. `BiasAttention` builds the
sum as a bias tensor, as segment-anything-fast does. `FusedFoldedAttention` makes it a part of the
product, as `export.graphs.attention.FoldedAttention` does, so that one attention of wider heads
computes all of it, without a tensor of queries times keys. `FlexAttention` leaves it to a compiler
to add the two terms inside the kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Final, cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from export.graphs.attention import (
    BlockwiseAttention,
    FoldedAttention,
    MakeAttention,
    WindowAttention,
    use_attention,
)

__all__ = [
    "COMPILED_FORMS",
    "FORMS",
    "BiasAttention",
    "FlexAttention",
    "FusedFoldedAttention",
    "add_relative_positions",
    "use_form",
]


class BiasAttention(WindowAttention):
    """Scaled dot-product attention with the relative positions as a bias tensor.

    At 1024 pixels the bias of a global block of vit_b has 12 · 4096 · 4096 elements an image.
    """

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        rel_h, rel_w = self._relative(q, height, width)
        # (B, heads, H, W, H, 1) + (B, heads, H, W, 1, W)
        bias = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).flatten(-2).flatten(2, 3)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)


class FusedFoldedAttention(FoldedAttention):
    """Scaled dot-product attention with the relative positions folded into q and k.

    With `pad_values` v grows to the width of q and k, which flash attention requires and other
    kernels do not.
    """

    def __init__(
        self, attn: Attention | WindowAttention, window_size: int = 0, *, pad_values: bool = False
    ) -> None:
        super().__init__(attn, window_size)
        self.pad_values = pad_values

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        queries, keys = self._fold(q, k, height, width)
        head_dim, missing = v.shape[-1], keys.shape[-1] - v.shape[-1]
        values = F.pad(v, (0, missing)) if self.pad_values else v
        out = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        return out[..., :head_dim]


class FlexAttention(WindowAttention):
    """Attention whose kernel a compiler generates, with the relative positions in it.

    Without `torch.compile` it holds all logits, as the official form does.
    """

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        rel_h, rel_w = (rel.flatten(2, 3) for rel in self._relative(q, height, width))

        def add_positions(
            score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor
        ) -> Tensor:
            row, column = key // width, key % width
            return score + rel_h[batch, head, query, row] + rel_w[batch, head, query, column]

        return flex_attention(q, k, v, score_mod=add_positions, scale=self.scale)


FORMS: Final[Mapping[str, MakeAttention | None]] = {
    "official": None,
    "exported": BlockwiseAttention,
    "sdpa_bias": BiasAttention,
    "folded": FusedFoldedAttention,
    "folded_padded": partial(FusedFoldedAttention, pad_values=True),
}
"""Forms by name. `official` is segment-anything's own, `exported` what `export` traces."""

COMPILED_FORMS: Final[Mapping[str, MakeAttention | None]] = {
    **FORMS,
    "flex": FlexAttention,
}
"""`FORMS`, and one that only a compiler makes fast."""


def use_form(encoder: nn.Module, form: str) -> ImageEncoderViT:
    """Return a copy of an encoder whose attention has another form, sharing all weights.

    Args:
        encoder: segment-anything's image encoder; left unchanged.
        form: a key of `COMPILED_FORMS`.
    """
    # A memo of the tensors makes deepcopy copy the modules and share the weights.
    tensors = [*encoder.parameters(), *encoder.buffers()]
    shared = cast(
        ImageEncoderViT, copy.deepcopy(encoder, {id(tensor): tensor for tensor in tensors})
    )
    attention = COMPILED_FORMS[form]
    if attention is not None:
        use_attention(shared, attention)
    return shared


@torch.no_grad()
def add_relative_positions(encoder: nn.Module, std: float = 0.05) -> None:
    """Draw the relative positions of an untrained encoder, in place, from a normal distribution.

    segment-anything leaves them at zero, where all forms agree whatever they do with them.
    """
    for block in cast(ImageEncoderViT, encoder).blocks:
        for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
            nn.init.normal_(table, std=std)
