"""Mask decoder of exported graphs: SAM's outputs by fewer and larger products over the image.

A prompt has 6 to 22 tokens, an image up to 4096 cells. To project the cells to queries, keys and
values takes longer than to attend over them, and to divide them into heads copies them. So the
projections are multiplied into the tokens: with keys X W and values X V of the cells X,
Q (X W)ᵀ = (Q Wᵀ) Xᵀ and P (X V) = (P X) V, and each head of a token is a row. A bias of the keys
adds the same to all logits of a row, which softmax ignores.

A transposed convolution of stride 2 is a product for every cell. Channels stay last in both, and
only the four masks are put into the order of pixels. A quarter of the pixels at a time takes less
memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from segment_anything.modeling.mask_decoder import MaskDecoder
from segment_anything.modeling.transformer import Attention
from torch import Tensor
from torch.nn import functional

from cpcsam.contract import LOW_RES_FACTOR
from cpcsam.model.capl import FusedAttention, separate_heads
from cpcsam.model.decoder import DecoderForm

__all__ = ["TokenSideForm"]


class TokenSideForm(DecoderForm):
    """Decoder of a fused model whose products over the image's cells are with tokens' rows."""

    def attend_to_image(
        self, attn: Attention | FusedAttention, site: int, tokens: Tensor, image: Tensor, pe: Tensor
    ) -> Tensor:
        """Attend from tokens to the image's cells, as `DecoderForm` does."""
        # Cells that all prompts share are projected once. A trace shows the weights by head.
        if image.shape[1] == 1 or self.trace is not None:
            return super().attend_to_image(attn, site, tokens, image, pe)
        queries = self.token_heads(attn, attn.q_proj, tokens) * _scale(attn)
        rows = (queries @ _by_head(attn, attn.k_proj.weight)).flatten(2, 3)
        weights = torch.softmax(rows @ (image + pe).transpose(-1, -2), dim=-1)
        mixed = (weights @ image).unflatten(2, (attn.num_heads, -1))
        values = mixed @ _by_head(attn, attn.v_proj.weight).transpose(-1, -2)
        projected: Tensor = attn.out_proj(values.transpose(2, 3).flatten(3) + attn.v_proj.bias)
        return projected

    def attend_to_tokens(
        self,
        attn: Attention | FusedAttention,
        site: int,
        image: Tensor,
        tokens: Tensor,
        token_values: Tensor,
        key_bias: Tensor,
    ) -> Tensor:
        """Attend from the image's cells to tokens, as `DecoderForm` does."""
        heads = attn.num_heads
        keys = self.token_heads(attn, attn.k_proj, tokens) * _scale(attn)
        columns = (keys @ _by_head(attn, attn.q_proj.weight)).flatten(2, 3).transpose(-1, -2)
        bias = keys @ attn.q_proj.bias.unflatten(0, (heads, -1)).unsqueeze(-1)
        bias = (bias.transpose(-1, -2) + key_bias).flatten(2).unsqueeze(2)
        logits = (image @ columns + bias).unflatten(-1, (heads, -1))
        weights = torch.softmax(logits, dim=-1).flatten(-2)
        values = separate_heads(attn.v_proj(token_values), heads)
        rows = (values @ _by_head(attn, attn.out_proj.weight.t())).flatten(2, 3)
        # The weights of a cell add up to the number of heads.
        return weights @ (rows + attn.out_proj.bias / heads)

    def draw_masks(self, decoder: MaskDecoder, image: Tensor, side: int, kernels: Tensor) -> Tensor:
        """Upscale the image and apply the kernels, as `DecoderForm` does."""
        low_res = LOW_RES_FACTOR * side
        # (B, P, 4, C / 8) @ (B, P, C / 8, 4 · G·G) for each row of pixels in a row of cells
        rows = [
            kernels @ row.transpose(-1, -2) for row in _upscale(decoder.output_upscaling, image)
        ]
        masks = torch.stack([row.unflatten(-1, (side, low_res)) for row in rows], dim=-2)
        return masks.flatten(-3, -2)


def _scale(attn: Attention | FusedAttention) -> float:
    # By the width of the values, as a fused attention has wider queries and keys.
    width: int = attn.v_proj.out_features // attn.num_heads
    return float(width**-0.5)


def _by_head(attn: Attention | FusedAttention, weight: Tensor) -> Tensor:
    """Divide a weight (heads · d, C) into (heads, d, C)."""
    divided: Tensor = weight.unflatten(0, (attn.num_heads, -1))
    return divided


def _upscale(upscaling: Iterable[Any], cells: Tensor) -> Iterator[Tensor]:
    """Double the resolution of cells (B, P, G·G, C) twice, one of four rows of pixels at a time.

    Yields:
        (B, P, 4 · G·G, C / 8): of each row of cells the first row of pixels, then the second ...
    """
    first, norm, activation, second, last_activation = upscaling
    for half in range(2):
        doubled = _double(first, cells, half)
        normed = functional.layer_norm(doubled, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        activated = activation(normed)
        for quarter in range(2):
            yield last_activation(_double(second, activated, quarter))


def _double(layer: Any, cells: Tensor, half: int) -> Tensor:
    """Apply a `ConvTranspose2d`, 2 × 2 of stride 2, to (B, P, M, C_in).

    Returns:
        (B, P, 2 M, C_out): the upper or lower of the rows that each row becomes.
    """
    # (C_in, C_out, 2, 2) to (C_in, 2 · C_out)
    weight = layer.weight[:, :, half].transpose(1, 2).flatten(1)
    columns = (cells @ weight).reshape(*cells.shape[:2], -1, layer.out_channels)
    doubled: Tensor = columns + layer.bias
    return doubled
