"""SAM's two-way transformer, batched over images and prompts, with masked keys and calibration.

The weights stay in segment-anything's modules; this is another forward pass through them. Prompts
are an inner dimension, so nothing is repeated: image tokens are (B, 1, G·G, C) until the first
image→token attention makes them differ between prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from segment_anything.modeling.mask_decoder import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor

from cpcsam.contract import LOW_RES_FACTOR
from cpcsam.model.capl import (
    NUM_SITES,
    EntityModule,
    FusedAttention,
    SiteCalibration,
    separate_heads,
)

__all__ = [
    "DecoderTrace",
    "calibration_channels",
    "decode_masks",
    "join_tokens",
    "key_bias_of",
    "predict_iou_and_kernels",
    "self_attention",
    "token_to_image",
    "two_way_transformer",
]

MASKED_LOGIT = -1e4
"""Added to the logits of an empty slot; its probability underflows to 0, also in float16."""


@dataclass
class DecoderTrace:
    """Intermediate tensors of the decoder that Eq. 2 reads.

    Attributes:
        attention_maps: token→image probabilities, one (B, P, heads, T, G·G) a site.
        image_to_token_biases: calibrations C of the image→token sites, same shape.
        token_to_image_biases: calibrations C of the token→image sites, same shape.
    """

    attention_maps: list[Tensor] = field(default_factory=list)
    image_to_token_biases: list[Tensor] = field(default_factory=list)
    token_to_image_biases: list[Tensor] = field(default_factory=list)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attend over (..., heads, T, d); return (..., T, heads · d) and the probabilities."""
    # By the width of v: a fused attention has wider q and k, but its scale must not change.
    logits = (q * int(v.shape[-1]) ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    weights = torch.softmax(logits, dim=-1)
    return (weights @ v).transpose(-2, -3).flatten(-2), weights


def self_attention(attn: Attention, q: Tensor, v: Tensor, key_bias: Tensor) -> Tensor:
    """Attend among tokens (B, P, T, C), which with their positions are `q`."""
    heads = attn.num_heads
    out, _ = _attend(
        separate_heads(attn.q_proj(q), heads),
        separate_heads(attn.k_proj(q), heads),
        separate_heads(attn.v_proj(v), heads),
        key_bias,
    )
    projected: Tensor = attn.out_proj(out)
    return projected


def _switched(calibration: Tensor, calibrate: Tensor | None) -> Tensor:
    """Multiply a calibration, (B, ...), by an image's switch, (B, 1)."""
    if calibrate is None:
        return calibration
    return calibration * calibrate.to(calibration.dtype).reshape(-1, *[1] * (calibration.dim() - 1))


def calibration_channels(attn: FusedAttention, tokens: Tensor, calibrate: Tensor | None) -> Tensor:
    """Return the channels that are added to the token side of each head, (B, P, heads, T, r)."""
    return separate_heads(_switched(attn.token_mlp(tokens), calibrate), attn.num_heads)


def token_to_image(
    attn: Attention | FusedAttention,
    site: SiteCalibration | None,
    tokens: Tensor,
    image: Tensor,
    image_values: Tensor,
    trace: DecoderTrace | None,
    calibrate: Tensor | None,
) -> Tensor:
    """Attend from tokens (B, P, T, C) to cells (B, 1 or P, G·G, C), with positions or without."""
    heads = attn.num_heads
    q = separate_heads(attn.q_proj(tokens), heads)
    if isinstance(attn, FusedAttention):
        q = torch.cat([q, calibration_channels(attn, tokens, calibrate)], dim=-1)
    k = separate_heads(attn.k_proj(image), heads)
    v = separate_heads(attn.v_proj(image_values), heads)
    bias = None if site is None else _switched(site(tokens, image), calibrate)
    out, weights = _attend(q, k, v, bias)
    if trace is not None:
        trace.attention_maps.append(weights)
        if bias is not None:
            trace.token_to_image_biases.append(bias)
    projected: Tensor = attn.out_proj(out)
    return projected


def _image_to_token(
    attn: Attention | FusedAttention,
    site: SiteCalibration | None,
    image: Tensor,
    tokens: Tensor,
    token_values: Tensor,
    key_bias: Tensor,
    trace: DecoderTrace | None,
    calibrate: Tensor | None,
) -> Tensor:
    heads = attn.num_heads
    q = separate_heads(attn.q_proj(image), heads)
    k = separate_heads(attn.k_proj(tokens), heads)
    if isinstance(attn, FusedAttention):
        k = torch.cat([k, calibration_channels(attn, tokens, calibrate)], dim=-1)
    v = separate_heads(attn.v_proj(token_values), heads)
    bias = key_bias
    if site is not None:
        calibration = _switched(site(tokens, image), calibrate)
        # C is (B, P, heads, T, G·G) at every site; here the image side is the queries.
        bias = key_bias + calibration.transpose(-1, -2)
        if trace is not None:
            trace.image_to_token_biases.append(calibration)
    out, _ = _attend(q, k, v, bias)
    projected: Tensor = attn.out_proj(out)
    return projected


def two_way_transformer(
    transformer: TwoWayTransformer,
    image: Tensor,
    image_pe: Tensor,
    tokens: Tensor,
    token_mask: Tensor,
    entity: EntityModule | None = None,
    trace: DecoderTrace | None = None,
    calibrate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the decoder's transformer.

    Args:
        transformer: segment-anything's module; its cross-attentions may be `FusedAttention`.
        image: (B, 1 or P, G·G, C), image embedding plus dense prompt.
        image_pe: (1, 1, G·G, C), dense positional encoding.
        tokens: (B, P, T, C), output tokens and prompt tokens.
        token_mask: (B, P, T), 1 for a token that exists and 0 for an empty slot.
        entity: explicit calibration of the five sites, None for none or fused.
        trace: filled with attention maps and calibrations, if given.
        calibrate: (B, 1), 0 leaves the calibration of an image's sites out; None calibrates.

    Returns:
        Tokens (B, P, T, C) and image (B, P, G·G, C).
    """
    sites: list[SiteCalibration | None] = [None] * NUM_SITES
    if entity is not None:
        sites = list(entity.sites)  # type: ignore[arg-type]  # a ModuleList forgets its type
    key_bias = key_bias_of(token_mask, tokens.dtype)
    # As in SAM, the prompt tokens are their own positional encoding.
    queries, keys, query_pe = tokens, image, tokens
    for index, layer in enumerate(transformer.layers):
        # SAM's first layer replaces the tokens: no positional encoding and no residual.
        if layer.skip_first_layer_pe:
            queries = self_attention(layer.self_attn, queries, queries, key_bias)
        else:
            queries = queries + self_attention(
                layer.self_attn, queries + query_pe, queries, key_bias
            )
        queries = layer.norm1(queries)
        queries = layer.norm2(
            queries
            + token_to_image(
                layer.cross_attn_token_to_image,
                sites[2 * index],
                queries + query_pe,
                keys + image_pe,
                keys,
                trace,
                calibrate,
            )
        )
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = layer.norm4(
            keys
            + _image_to_token(
                layer.cross_attn_image_to_token,
                sites[2 * index + 1],
                keys + image_pe,
                queries + query_pe,
                queries,
                key_bias,
                trace,
                calibrate,
            )
        )
    attn_out = token_to_image(
        transformer.final_attn_token_to_image,
        sites[-1],
        queries + query_pe,
        keys + image_pe,
        keys,
        trace,
        calibrate,
    )
    return transformer.norm_final_attn(queries + attn_out), keys


def decode_masks(
    decoder: MaskDecoder,
    image: Tensor,
    image_pe: Tensor,
    sparse_embeddings: Tensor,
    token_mask: Tensor,
    entity: EntityModule | None = None,
    trace: DecoderTrace | None = None,
    calibrate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Predict all four masks and their IoU for every prompt.

    Args:
        decoder: segment-anything's mask decoder.
        image: (B, 1 or P, C, G, G), image embeddings plus dense prompt.
        image_pe: (1, C, G, G).
        sparse_embeddings: (B, P, N+1, C).
        token_mask: (B, P, N+1), 1 where the slot holds a token.
        entity: explicit calibration, None for none or fused.
        trace: filled, if given.
        calibrate: (B, 1), 0 leaves the calibration of an image's sites out; None calibrates.

    Returns:
        low_res_masks (B, P, 4, 4G, 4G) logits and iou_predictions (B, P, 4).
    """
    batch, prompts = sparse_embeddings.shape[:2]
    side = image.shape[-1]
    tokens, full_mask = join_tokens(decoder, sparse_embeddings, token_mask)
    hidden, keys = two_way_transformer(
        decoder.transformer,
        image.flatten(3).transpose(2, 3),
        image_pe.flatten(2).transpose(1, 2).unsqueeze(1),
        tokens,
        full_mask,
        entity,
        trace,
        calibrate,
    )
    # (B · P, C, G, G), as transposed convolutions take a single batch axis
    grid = keys.transpose(2, 3).reshape(-1, decoder.transformer_dim, side, side)
    upscaled = decoder.output_upscaling(grid).flatten(2).unflatten(0, (batch, prompts))
    iou_predictions, kernels = predict_iou_and_kernels(decoder, hidden)
    low_res = LOW_RES_FACTOR * side
    # (B, P, 4, C / 8) @ (B, P, C / 8, 4G · 4G)
    low_res_masks = (kernels @ upscaled).unflatten(-1, (low_res, low_res))
    return low_res_masks, iou_predictions


def join_tokens(
    decoder: MaskDecoder, sparse_embeddings: Tensor, token_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Put the output tokens before those of the prompts: the IoU's, then a token a mask.

    Returns:
        Tokens (B, P, T, C) and mask (B, P, T), 1 where the slot holds a token.
    """
    batch, prompts = sparse_embeddings.shape[:2]
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output_tokens.expand(batch, prompts, -1, -1), sparse_embeddings], dim=2)
    exist = token_mask.new_ones(1, 1, len(output_tokens)).expand(batch, prompts, -1)
    return tokens, torch.cat([exist, token_mask], dim=2)


def key_bias_of(token_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to logits of keys, (B, P, 1, 1, T): equal for every head and query."""
    return ((1 - token_mask) * MASKED_LOGIT)[:, :, None, None, :].to(dtype)


def predict_iou_and_kernels(decoder: MaskDecoder, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Read the output tokens (B, P, T, C): IoU (B, P, 4), and (B, P, 4, C / 8) a mask's kernel."""
    mlps = decoder.output_hypernetworks_mlps
    kernels = torch.stack([mlp(hidden[:, :, 1 + i]) for i, mlp in enumerate(mlps)], dim=2)
    return decoder.iou_prediction_head(hidden[:, :, 0]), kernels
