"""Traceable form of a fused model: equal outputs, shared weights, blockwise attention."""

from __future__ import annotations

import copy
from typing import Final, cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

from cpcsam.model.decoder import softmax
from cpcsam.model.fusion import FusedCpcSam

__all__ = [
    "QUERIES",
    "BlockwiseAttention",
    "TraceableCpcSam",
    "make_traceable",
    "use_blockwise_attention",
]

QUERIES: Final = 1024
"""Queries per chunk: only global attention at 1024 pixels (G = 64) is split, into 4."""


class BlockwiseAttention(nn.Module):
    """segment-anything's attention with relative positions, computed in chunks of query rows.

    At 1024 pixels a global block of vit_b compares 4096 queries with 4096 keys in 12 heads: 0.8 GB
    per float32 matrix, of which the official implementation holds several. A chunk of queries needs
    only its own rows. The outputs are equal, since the softmax is taken per row.
    """

    def __init__(self, attn: Attention, queries: int) -> None:
        super().__init__()
        self.num_heads, self.scale, self.queries = attn.num_heads, attn.scale, queries
        self.qkv, self.proj = attn.qkv, attn.proj
        self.rel_pos_h, self.rel_pos_w = attn.rel_pos_h, attn.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Attend within (B, H, W, C) float; the output has the same shape."""
        height, width, channels = map(int, x.shape[1:])
        heads, head_dim = self.num_heads, channels // self.num_heads
        # -1 keeps the batch dynamic: a traced size would be frozen into the graph.
        grid = (-1, heads, height, width, head_dim)
        qkv = self.qkv(x).reshape(-1, height * width, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, keys = q.reshape(grid), k.transpose(2, 3)
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", q, get_rel_pos(height, height, self.rel_pos_h))
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", q, get_rel_pos(width, width, self.rel_pos_w))
        # Chunks are whole rows of the grid, since the biases are indexed by row and column.
        step = max(1, self.queries // width)
        rows = [min(step, height - first) for first in range(0, height, step)]
        parts = (part.split(rows, dim=2) for part in (q * self.scale, bias_h, bias_w))
        attended = [
            self._attend(q_rows, bias_h_rows, bias_w_rows, keys, v)
            for q_rows, bias_h_rows, bias_w_rows in zip(*parts, strict=True)
        ]
        joined = torch.cat(attended, dim=2).transpose(1, 2)
        projected: Tensor = self.proj(joined.reshape(-1, height, width, channels))
        return projected

    def _attend(self, q: Tensor, bias_h: Tensor, bias_w: Tensor, keys: Tensor, v: Tensor) -> Tensor:
        """Map scaled queries (B, heads, rows, W, d) and their biases to (B, heads, rows · W, d)."""
        heads, rows, width, head_dim = map(int, q.shape[1:])
        height = int(bias_h.shape[-1])
        logits = q.reshape(-1, heads, rows * width, head_dim) @ keys
        logits = logits.reshape(-1, heads, rows, width, height, width)
        logits = logits + bias_h.unsqueeze(-1) + bias_w.unsqueeze(-2)
        return softmax(logits.reshape(-1, heads, rows * width, height * width)) @ v


def use_blockwise_attention(encoder: nn.Module, queries: int = QUERIES) -> None:
    """Replace the attention of every block of an encoder in place, sharing the weights.

    Args:
        encoder: segment-anything's image encoder.
        queries: largest number of queries per chunk; a chunk has at least one row of the grid.
    """
    for block in cast(ImageEncoderViT, encoder).blocks:
        block.attn = BlockwiseAttention(block.attn, queries)


class TraceableCpcSam(FusedCpcSam):
    """A fused model whose positional encoding of the grid is a constant of the graph."""

    @torch.no_grad()
    def __init__(self, model: FusedCpcSam) -> None:
        super().__init__(model, model.fused_config)
        self.register_buffer("constant_image_pe", model.image_pe().clone(), persistent=False)

    def image_pe(self) -> Tensor:
        """Return `CpcSam.image_pe`, computed once."""
        return self.get_buffer("constant_image_pe")


def make_traceable(model: FusedCpcSam, queries: int = QUERIES) -> TraceableCpcSam:
    """Return the traceable form of a model, in evaluation mode.

    Args:
        model: the fused model; left unchanged, its weights are shared.
        queries: largest number of queries in a block of the encoder's attention.
    """
    # A memo of the tensors makes deepcopy copy the modules and share the weights.
    tensors = [*model.parameters(), *model.buffers()]
    shared = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    use_blockwise_attention(shared.sam.image_encoder, queries)
    return TraceableCpcSam(shared).eval()
