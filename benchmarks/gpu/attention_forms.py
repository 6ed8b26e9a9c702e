"""Equal forms of the image encoder's attention with decomposed relative positions.

segment-anything adds rel_h(q, row of k) + rel_w(q, column of k) to the logits of every block, which
no fused kernel of attention takes as such. Two forms fit such a kernel. `BiasAttention` builds the
sum as a bias tensor, as segment-anything-fast does. `FoldedAttention` makes it a part of the
product: with q' = [scale · q, q · R_h, q · R_w] and k' = [k, one-hot row, one-hot column],

    q' · k' = scale · q · k + rel_h(row) + rel_w(column),

so that one attention of wider heads computes all of it, without a tensor of queries times keys.
`FlexAttention` leaves it to a compiler to add the two terms inside the kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Final, cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from export.graphs.traceable import QUERIES, BlockwiseAttention

__all__ = [
    "COMPILED_FORMS",
    "FORMS",
    "BiasAttention",
    "FlexAttention",
    "FoldedAttention",
    "add_relative_positions",
    "use_form",
]

WIDTHS: Final = 8
"""Fused kernels take heads whose width is a multiple of this."""


class _FusedAttention(nn.Module):
    """Projections around an attention that a subclass computes; shares an attention's weights."""

    def __init__(self, attn: Attention) -> None:
        super().__init__()
        self.num_heads, self.scale = attn.num_heads, attn.scale
        self.qkv, self.proj = attn.qkv, attn.proj
        self.rel_pos_h, self.rel_pos_w = attn.rel_pos_h, attn.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Attend within (B, H, W, C) float; the output has the same shape."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        # (B, heads, H · W, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = self._attend(q, k, v, height, width)
        joined = attended.transpose(1, 2).reshape(batch, height, width, channels)
        projected: Tensor = self.proj(joined)
        return projected

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        raise NotImplementedError

    def _relative(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return rel_h (B, heads, H · W, H) and rel_w (B, heads, H · W, W) of queries."""
        rows, columns = _table(height, self.rel_pos_h), _table(width, self.rel_pos_w)
        grid = q.unflatten(2, (height, width))
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, rows)
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, columns)
        return rel_h.flatten(2, 3), rel_w.flatten(2, 3)


def _table(size: int, rel_pos: Tensor) -> Tensor:
    """Return the positions (size, size, d) of pairs of tokens, as `get_rel_pos`.

    That function indexes by a tensor on the CPU, for which every call would wait for the GPU.

    Args:
        size: tokens of an axis.
        rel_pos: (2 · size - 1, d), a row for each offset.
    """
    place = torch.arange(size, device=rel_pos.device)
    return rel_pos[place[:, None] - place + size - 1]


class BiasAttention(_FusedAttention):
    """Scaled dot-product attention with the relative positions as a bias tensor.

    At 1024 pixels the bias of a global block of vit_b has 12 · 4096 · 4096 elements an image.
    """

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        rel_h, rel_w = self._relative(q, height, width)
        # (B, heads, H · W, H, 1) + (B, heads, H · W, 1, W)
        bias = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).flatten(-2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)


class FoldedAttention(_FusedAttention):
    """Scaled dot-product attention with the relative positions folded into q and k.

    Heads grow from d to d + H + W, rounded up to a multiple of 8: 192 in a global block of vit_b at
    1024 pixels, 96 in a window. With `pad_values` v grows to the same width, which flash attention
    requires and other kernels do not.
    """

    def __init__(self, attn: Attention, *, pad_values: bool = False) -> None:
        super().__init__(attn)
        self.pad_values = pad_values

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        rel_h, rel_w = self._relative(q, height, width)
        row, column = (torch.eye(n, dtype=k.dtype, device=k.device) for n in (height, width))
        row, column = row.repeat_interleave(width, dim=0), column.repeat(height, 1)
        one_hot = torch.cat([row, column], dim=-1).expand(*k.shape[:2], -1, -1)
        queries = _padded(torch.cat([q * self.scale, rel_h, rel_w], dim=-1))
        keys = _padded(torch.cat([k, one_hot], dim=-1))
        head_dim, missing = v.shape[-1], keys.shape[-1] - v.shape[-1]
        values = F.pad(v, (0, missing)) if self.pad_values else v
        out = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        return out[..., :head_dim]


class FlexAttention(_FusedAttention):
    """Attention whose kernel a compiler generates, with the relative positions in it.

    Without `torch.compile` it holds all logits, as the official form does.
    """

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        rel_h, rel_w = self._relative(q, height, width)

        def add_positions(
            score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor
        ) -> Tensor:
            row, column = key // width, key % width
            return score + rel_h[batch, head, query, row] + rel_w[batch, head, query, column]

        return flex_attention(q, k, v, score_mod=add_positions, scale=self.scale)


def _padded(x: Tensor) -> Tensor:
    """Append zeros to the last axis up to a multiple of `WIDTHS`."""
    return F.pad(x, (0, -x.shape[-1] % WIDTHS))


FORMS: Final[Mapping[str, Callable[[Attention], nn.Module]]] = {
    "official": lambda attn: attn,
    "exported": lambda attn: BlockwiseAttention(attn, QUERIES),
    "sdpa_bias": BiasAttention,
    "folded": FoldedAttention,
    "folded_padded": lambda attn: FoldedAttention(attn, pad_values=True),
}
"""Forms by name. `official` is segment-anything's own, `exported` what `export` traces."""

COMPILED_FORMS: Final[Mapping[str, Callable[[Attention], nn.Module]]] = {
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
    for block in shared.blocks:
        block.attn = COMPILED_FORMS[form](block.attn)
    return shared


@torch.no_grad()
def add_relative_positions(encoder: nn.Module, std: float = 0.05) -> None:
    """Draw the relative positions of an untrained encoder, in place, from a normal distribution.

    segment-anything leaves them at zero, where all forms agree whatever they do with them.
    """
    for block in cast(ImageEncoderViT, encoder).blocks:
        for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
            nn.init.normal_(table, std=std)
