"""Forms of the image encoder's attention: equal outputs, each for a target of its own.

segment-anything adds rel_h(q, row of k) + rel_w(q, column of k) to the logits, where no fused
kernel of attention takes them. `BlockwiseAttention` bounds the memory of ONNX Runtime on the CPU;
`FoldedAttention` leaves a softmax alone between its two products, which TensorRT fuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "QUERIES",
    "BlockwiseAttention",
    "FoldedAttention",
    "MakeAttention",
    "WindowAttention",
    "use_attention",
]

QUERIES: Final = 1024
"""Queries per chunk: only global attention at 1024 pixels (G = 64) is split, into 4."""
WIDTHS: Final = 8
"""Fused kernels take heads whose width is a multiple of this."""


class WindowAttention(nn.Module):
    """segment-anything's attention, with the windows of its block; shares the weights.

    segment-anything pads the grid to whole windows before the attention, so the padded tokens take
    part in both projections. But their q, k and v are the bias of the projection, and what they
    attend to is cut off: qkv is padded here behind the projection, and cut before the other. At
    1024 pixels that saves a sixth of both products.

    Args:
        attn: of a block, in any form.
        window_size: side of the block's windows in tokens; 0 attends to the whole grid.
    """

    num_heads: int
    scale: float
    qkv: nn.Linear
    proj: nn.Linear
    rel_pos_h: nn.Parameter
    rel_pos_w: nn.Parameter

    def __init__(self, attn: Attention | WindowAttention, window_size: int = 0) -> None:
        super().__init__()
        self.num_heads, self.scale, self.window_size = attn.num_heads, attn.scale, window_size
        self.qkv, self.proj = attn.qkv, attn.proj
        self.rel_pos_h, self.rel_pos_w = attn.rel_pos_h, attn.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Attend within (B, H, W, C) float; the output has the same shape."""
        height, width, channels = map(int, x.shape[1:])
        heads, head_dim = self.num_heads, channels // self.num_heads
        high, wide = (self.window_size or side for side in (height, width))
        down, across = -(-height // high), -(-width // wide)
        qkv = self._pad(self.qkv(x), down * high - height, across * wide - width)
        # -1 keeps the batch dynamic: a traced size would be frozen into the graph.
        split = qkv.reshape(-1, down, high, across, wide, 3 * heads, head_dim)
        windows = split.permute(0, 1, 3, 5, 2, 4, 6)
        q, k, v = windows.reshape(-1, 3, heads, high * wide, head_dim).unbind(1)
        attended = self._attend(q, k, v, high, wide)
        attended = attended.reshape(-1, down, across, heads, high, wide, head_dim)
        joined = attended.permute(0, 1, 4, 2, 5, 3, 6)
        grid = joined.reshape(-1, down * high, across * wide, channels)
        projected: Tensor = self.proj(grid[:, :height, :width])
        return projected

    def _pad(self, qkv: Tensor, bottom: int, right: int) -> Tensor:
        """Append tokens of zeros before the projection, which are its bias behind it."""
        for axis, missing in ((1, bottom), (2, right)):
            if missing:
                shape = [*map(int, qkv.shape[1:])]
                shape[axis - 1] = missing
                qkv = torch.cat([qkv, self.qkv.bias.expand(qkv.shape[0], *shape)], axis)
        return qkv

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        """Attend in windows; q, k, v and the result are (B, heads, height · width, d)."""
        raise NotImplementedError

    def _relative(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return rel_h (B, heads, height, width, height) and rel_w (..., width) of queries."""
        grid = q.unflatten(2, (height, width))
        rows, columns = _table(height, self.rel_pos_h), _table(width, self.rel_pos_w)
        rel_w = grid.transpose(2, 3) @ columns.transpose(1, 2)
        return grid @ rows.transpose(1, 2), rel_w.transpose(2, 3)


def _table(size: int, rel_pos: Tensor) -> Tensor:
    """Return the positions (size, size, d) of pairs of tokens, as `get_rel_pos`.

    That function indexes by a tensor on the CPU, for which every call would wait for the GPU.

    Args:
        size: tokens of an axis.
        rel_pos: (2 · size - 1, d), a row for each offset.
    """
    place = torch.arange(size, device=rel_pos.device)
    return rel_pos[place[:, None] - place + size - 1]


class BlockwiseAttention(WindowAttention):
    """Attention computed in chunks of query rows.

    At 1024 pixels a global block of vit_b compares 4096 queries with 4096 keys in 12 heads: 0.8 GB
    per float32 matrix, of which the official implementation holds several. A chunk of queries needs
    only its own rows. The outputs are equal, since the softmax is taken per row.

    Args:
        attn: of a block.
        window_size: side of its windows, 0 without.
        queries: largest number of queries per chunk; a chunk has at least one row of the grid.
    """

    def __init__(
        self, attn: Attention | WindowAttention, window_size: int = 0, queries: int = QUERIES
    ) -> None:
        super().__init__(attn, window_size)
        self.queries = queries

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        rel_h, rel_w = self._relative(q, height, width)
        keys = k.transpose(2, 3)
        # Chunks are whole rows of the grid, since the biases are indexed by row and column.
        step = max(1, self.queries // width)
        rows = [min(step, height - first) for first in range(0, height, step)]
        scaled = (q * self.scale).unflatten(2, (height, width))
        parts = (part.split(rows, dim=2) for part in (scaled, rel_h, rel_w))
        attended = [
            _attend_rows(q_rows, rel_h_rows, rel_w_rows, keys, v)
            for q_rows, rel_h_rows, rel_w_rows in zip(*parts, strict=True)
        ]
        return torch.cat(attended, dim=2)


def _attend_rows(q: Tensor, rel_h: Tensor, rel_w: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    """Map scaled queries (B, heads, rows, W, d) and their biases to (B, heads, rows · W, d)."""
    heads, rows, width, head_dim = map(int, q.shape[1:])
    height = int(rel_h.shape[-1])
    logits = q.reshape(-1, heads, rows * width, head_dim) @ keys
    logits = logits.reshape(-1, heads, rows, width, height, width)
    logits = logits + rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)
    logits = logits.reshape(-1, heads, rows * width, height * width)
    return torch.softmax(logits, dim=-1) @ v


class FoldedAttention(WindowAttention):
    """Attention with the relative positions folded into q and k.

    With q' = [scale · q, q · R_h, q · R_w] and k' = [k, one-hot row, one-hot column],

        q' · k' = scale · q · k + rel_h(row) + rel_w(column).

    Heads grow from d to d + H + W, rounded up to a multiple of 8: 192 in a global block of vit_b at
    1024 pixels, 96 in a window.
    """

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        queries, keys = self._fold(q, k, height, width)
        return torch.softmax(queries @ keys.transpose(2, 3), dim=-1) @ v

    def _fold(self, q: Tensor, k: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return q' and k', (B, heads, height · width, d')."""
        rel_h, rel_w = self._relative(q, height, width)
        row, column = (torch.eye(side, dtype=k.dtype, device=k.device) for side in (height, width))
        one_hot = [row.repeat_interleave(width, dim=0), column.repeat(height, 1)]
        places = torch.cat(one_hot, dim=-1).expand(*k.shape[:2], -1, -1)
        queries = torch.cat([q * self.scale, rel_h.flatten(2, 3), rel_w.flatten(2, 3)], dim=-1)
        return _padded(queries), _padded(torch.cat([k, places], dim=-1))


def _padded(x: Tensor) -> Tensor:
    """Append zeros to the last axis up to a multiple of `WIDTHS`."""
    return F.pad(x, (0, -x.shape[-1] % WIDTHS))


MakeAttention: TypeAlias = Callable[[Attention | WindowAttention, int], WindowAttention]
"""Makes a form of a block's attention, given the side of the block's windows, 0 without."""


def use_attention(encoder: nn.Module, make: MakeAttention) -> None:
    """Give the attention of every block of an encoder another form, in place.

    Args:
        encoder: segment-anything's image encoder, with attention in any form.
        make: makes the form of a block.
    """
    for block in cast(ImageEncoderViT, encoder).blocks:
        attn = block.attn
        windows = attn.window_size if isinstance(attn, WindowAttention) else block.window_size
        block.attn = make(attn, windows)
        # The block itself splits no windows any more.
        block.window_size = 0
