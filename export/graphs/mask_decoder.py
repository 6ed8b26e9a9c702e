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
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from cpcsam.contract import LOW_RES_FACTOR
from cpcsam.model.capl import FusedAttention, separate_heads
from cpcsam.model.decoder import (
    calibration_channels,
    join_tokens,
    key_bias_of,
    predict_iou_and_kernels,
    self_attention,
    token_to_image,
)

__all__ = ["decode_masks"]


def decode_masks(
    decoder: MaskDecoder,
    image: Tensor,
    image_pe: Tensor,
    sparse_embeddings: Tensor,
    token_mask: Tensor,
    calibrate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Predict all four masks and their IoU for every prompt, as `cpcsam.model.decoder` does.

    Args:
        decoder: segment-anything's mask decoder; its cross-attentions may be `FusedAttention`.
        image: (B, 1 or P, C, G, G), image embeddings plus dense prompt.
        image_pe: (1, C, G, G).
        sparse_embeddings: (B, P, N+1, C).
        token_mask: (B, P, N+1), 1 where the slot holds a token.
        calibrate: (B, 1), 0 leaves the calibration of an image's sites out; None calibrates.

    Returns:
        low_res_masks (B, P, 4, 4G, 4G) logits and iou_predictions (B, P, 4).
    """
    tokens, full_mask = join_tokens(decoder, sparse_embeddings, token_mask)
    hidden, cells = _two_way_transformer(
        decoder.transformer,
        image.flatten(3).transpose(2, 3),
        image_pe.flatten(2).transpose(1, 2).unsqueeze(1),
        tokens,
        key_bias_of(full_mask, tokens.dtype),
        calibrate,
    )
    iou_predictions, kernels = predict_iou_and_kernels(decoder, hidden)
    side, low_res = image.shape[-1], LOW_RES_FACTOR * image.shape[-1]
    # (B, P, 4, C / 8) @ (B, P, C / 8, 4 · G·G) for each row of pixels in a row of cells
    rows = [kernels @ row.transpose(-1, -2) for row in _upscale(decoder.output_upscaling, cells)]
    masks = torch.stack([row.unflatten(-1, (side, low_res)) for row in rows], dim=-2)
    return masks.flatten(-3, -2), iou_predictions


def _two_way_transformer(
    transformer: TwoWayTransformer,
    cells: Tensor,
    cells_pe: Tensor,
    tokens: Tensor,
    key_bias: Tensor,
    calibrate: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return tokens (B, P, T, C) and cells (B, P, G·G, C)."""
    queries, tokens_pe = tokens, tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = self_attention(layer.self_attn, queries, queries, key_bias)
        else:
            queries = queries + self_attention(
                layer.self_attn, queries + tokens_pe, queries, key_bias
            )
        queries = layer.norm1(queries)
        attended = _to_cells(
            layer.cross_attn_token_to_image, queries + tokens_pe, cells, cells_pe, calibrate
        )
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))
        attended = _to_tokens(
            layer.cross_attn_image_to_token,
            cells + cells_pe,
            queries + tokens_pe,
            queries,
            key_bias,
            calibrate,
        )
        cells = layer.norm4(cells + attended)
    attended = _to_cells(
        transformer.final_attn_token_to_image, queries + tokens_pe, cells, cells_pe, calibrate
    )
    return transformer.norm_final_attn(queries + attended), cells


def _to_cells(
    attn: Attention | FusedAttention,
    tokens: Tensor,
    cells: Tensor,
    cells_pe: Tensor,
    calibrate: Tensor | None,
) -> Tensor:
    """Attend from tokens (B, P, T, C) to cells (B, 1 or P, G·G, C)."""
    if cells.shape[1] == 1:
        # All prompts share the cells' projections, which costs less than a product for each.
        shared = cells + cells_pe
        return token_to_image(attn, None, tokens, shared, cells, None, calibrate)
    rows = _token_heads(attn, attn.q_proj, tokens, calibrate) @ _by_head(attn, attn.k_proj.weight)
    weights = torch.softmax(rows.flatten(2, 3) @ (cells + cells_pe).transpose(-1, -2), dim=-1)
    mixed = (weights @ cells).unflatten(2, (attn.num_heads, -1))
    values = mixed @ _by_head(attn, attn.v_proj.weight).transpose(-1, -2)
    projected: Tensor = attn.out_proj(values.transpose(2, 3).flatten(3) + attn.v_proj.bias)
    return projected


def _to_tokens(
    attn: Attention | FusedAttention,
    cells: Tensor,
    tokens: Tensor,
    token_values: Tensor,
    key_bias: Tensor,
    calibrate: Tensor | None,
) -> Tensor:
    """Attend from cells (B, 1 or P, G·G, C) to tokens (B, P, T, C)."""
    heads = attn.num_heads
    keys = _token_heads(attn, attn.k_proj, tokens, calibrate)
    columns = (keys @ _by_head(attn, attn.q_proj.weight)).flatten(2, 3).transpose(-1, -2)
    bias = keys @ attn.q_proj.bias.unflatten(0, (heads, -1)).unsqueeze(-1)
    bias = (bias.transpose(-1, -2) + key_bias).flatten(2).unsqueeze(2)
    logits = (cells @ columns + bias).unflatten(-1, (heads, -1))
    weights = torch.softmax(logits, dim=-1).flatten(-2)
    values = separate_heads(attn.v_proj(token_values), heads)
    rows = (values @ _by_head(attn, attn.out_proj.weight.t())).flatten(2, 3)
    # The weights of a cell add up to the number of heads.
    return weights @ (rows + attn.out_proj.bias / heads)


def _token_heads(
    attn: Attention | FusedAttention,
    projection: nn.Linear,
    tokens: Tensor,
    calibrate: Tensor | None,
) -> Tensor:
    """Project tokens to (B, P, heads, T, d), scaled, with the channels of a fused calibration."""
    projected = separate_heads(projection(tokens), attn.num_heads)
    if isinstance(attn, FusedAttention):
        calibration = calibration_channels(attn, tokens, calibrate)
        projected = torch.cat([projected, calibration], dim=-1)
    width = attn.v_proj.out_features // attn.num_heads
    scaled: Tensor = projected * width**-0.5
    return scaled


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
