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
from torch import Tensor, nn

from cpcsam.contract import LOW_RES_FACTOR
from cpcsam.model.capl import (
    NUM_SITES,
    EntityModule,
    FusedAttention,
    separate_heads,
)

__all__ = ["DecoderForm", "DecoderTrace", "decode_masks"]

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


def _self_attention(attn: Attention, q: Tensor, v: Tensor, key_bias: Tensor) -> Tensor:
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


@dataclass(frozen=True)
class DecoderForm:
    """Products over the image in SAM's order; a subclass has equal outputs by another order.

    Attributes:
        entity: explicit calibration of the five sites, None for none or fused.
        trace: filled with attention maps and calibrations, if given.
        calibrate: (B, 1), 0 leaves the calibration of an image's sites out; None calibrates.
    """

    entity: EntityModule | None = None
    trace: DecoderTrace | None = None
    calibrate: Tensor | None = None

    def attend_to_image(
        self, attn: Attention | FusedAttention, site: int, tokens: Tensor, image: Tensor, pe: Tensor
    ) -> Tensor:
        """Attend from tokens (B, P, T, C) to the image (B, 1 or P, G·G, C) with positions `pe`."""
        placed = image + pe
        q = self.token_heads(attn, attn.q_proj, tokens)
        k = separate_heads(attn.k_proj(placed), attn.num_heads)
        v = separate_heads(attn.v_proj(image), attn.num_heads)
        bias = self._calibration(site, tokens, placed)
        out, weights = _attend(q, k, v, bias)
        if self.trace is not None:
            self.trace.attention_maps.append(weights)
            if bias is not None:
                self.trace.token_to_image_biases.append(bias)
        projected: Tensor = attn.out_proj(out)
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
        """Attend from the image with positions (B, 1 or P, G·G, C) to tokens (B, P, T, C)."""
        q = separate_heads(attn.q_proj(image), attn.num_heads)
        k = self.token_heads(attn, attn.k_proj, tokens)
        v = separate_heads(attn.v_proj(token_values), attn.num_heads)
        calibration = self._calibration(site, tokens, image)
        if calibration is not None:
            # C is (B, P, heads, T, G·G) at every site; here the image side is the queries.
            key_bias = key_bias + calibration.transpose(-1, -2)
            if self.trace is not None:
                self.trace.image_to_token_biases.append(calibration)
        out, _ = _attend(q, k, v, key_bias)
        projected: Tensor = attn.out_proj(out)
        return projected

    def draw_masks(self, decoder: MaskDecoder, image: Tensor, side: int, kernels: Tensor) -> Tensor:
        """Upscale the image (B, P, G·G, C) and apply the kernels: (B, P, 4, 4G, 4G) logits."""
        # (B · P, C, G, G), as transposed convolutions take a single batch axis
        grid = image.transpose(2, 3).reshape(-1, decoder.transformer_dim, side, side)
        upscaled = decoder.output_upscaling(grid).flatten(2).unflatten(0, kernels.shape[:2])
        low_res = LOW_RES_FACTOR * side
        # (B, P, 4, C / 8) @ (B, P, C / 8, 4G · 4G)
        masks: Tensor = (kernels @ upscaled).unflatten(-1, (low_res, low_res))
        return masks

    def token_heads(
        self, attn: Attention | FusedAttention, projection: nn.Module, tokens: Tensor
    ) -> Tensor:
        """Project tokens to (B, P, heads, T, d), with r more channels of a fused calibration."""
        heads = separate_heads(projection(tokens), attn.num_heads)
        if isinstance(attn, FusedAttention):
            channels = _switched(attn.token_mlp(tokens), self.calibrate)
            heads = torch.cat([heads, separate_heads(channels, attn.num_heads)], dim=-1)
        return heads

    def _calibration(self, site: int, tokens: Tensor, image: Tensor) -> Tensor | None:
        """Return the explicit calibration C of a site, (B, P, heads, T, G·G)."""
        if self.entity is None:
            return None
        return _switched(self.entity.sites[site](tokens, image), self.calibrate)


def _two_way_transformer(
    transformer: TwoWayTransformer,
    image: Tensor,
    image_pe: Tensor,
    tokens: Tensor,
    token_mask: Tensor,
    form: DecoderForm,
) -> tuple[Tensor, Tensor]:
    """Run the decoder's transformer.

    Args:
        transformer: segment-anything's module; its cross-attentions may be `FusedAttention`.
        image: (B, 1 or P, G·G, C), image embedding plus dense prompt.
        image_pe: (1, 1, G·G, C), dense positional encoding.
        tokens: (B, P, T, C), output tokens and prompt tokens.
        token_mask: (B, P, T), 1 for a token that exists and 0 for an empty slot.
        form: order of the products over the image.

    Returns:
        Tokens (B, P, T, C) and image (B, P, G·G, C).
    """
    # (B, P, 1, 1, T): the same for every head and query
    key_bias = ((1 - token_mask) * MASKED_LOGIT)[:, :, None, None, :].to(tokens.dtype)
    # As in SAM, the prompt tokens are their own positional encoding.
    queries, keys, query_pe = tokens, image, tokens
    for index, layer in enumerate(transformer.layers):
        # SAM's first layer replaces the tokens: no positional encoding and no residual.
        if layer.skip_first_layer_pe:
            queries = _self_attention(layer.self_attn, queries, queries, key_bias)
        else:
            queries = queries + _self_attention(
                layer.self_attn, queries + query_pe, queries, key_bias
            )
        queries = layer.norm1(queries)
        attention, site = layer.cross_attn_token_to_image, 2 * index
        attended = form.attend_to_image(attention, site, queries + query_pe, keys, image_pe)
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))
        attention, site = layer.cross_attn_image_to_token, 2 * index + 1
        attended = form.attend_to_tokens(
            attention, site, keys + image_pe, queries + query_pe, queries, key_bias
        )
        keys = layer.norm4(keys + attended)
    attention = transformer.final_attn_token_to_image
    attended = form.attend_to_image(attention, NUM_SITES - 1, queries + query_pe, keys, image_pe)
    return transformer.norm_final_attn(queries + attended), keys


def decode_masks(
    decoder: MaskDecoder,
    image: Tensor,
    image_pe: Tensor,
    sparse_embeddings: Tensor,
    token_mask: Tensor,
    form: DecoderForm,
) -> tuple[Tensor, Tensor]:
    """Predict all four masks and their IoU for every prompt.

    Args:
        decoder: segment-anything's mask decoder.
        image: (B, 1 or P, C, G, G), image embeddings plus dense prompt.
        image_pe: (1, C, G, G).
        sparse_embeddings: (B, P, N+1, C).
        token_mask: (B, P, N+1), 1 where the slot holds a token.
        form: order of the products over the image.

    Returns:
        low_res_masks (B, P, 4, 4G, 4G) logits and iou_predictions (B, P, 4).
    """
    batch, prompts = sparse_embeddings.shape[:2]
    # In this order the heads below read them: token 0 for the IoU, then a token a mask.
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    num_outputs = output_tokens.shape[0]
    tokens = torch.cat([output_tokens.expand(batch, prompts, -1, -1), sparse_embeddings], dim=2)
    full_mask = torch.cat(
        [token_mask.new_ones(1, 1, num_outputs).expand(batch, prompts, -1), token_mask], dim=2
    )
    hidden, keys = _two_way_transformer(
        decoder.transformer,
        image.flatten(3).transpose(2, 3),
        image_pe.flatten(2).transpose(1, 2).unsqueeze(1),
        tokens,
        full_mask,
        form,
    )
    mlps = decoder.output_hypernetworks_mlps
    kernels = torch.stack([mlp(hidden[:, :, 1 + i]) for i, mlp in enumerate(mlps)], dim=2)
    masks = form.draw_masks(decoder, keys, image.shape[-1], kernels)
    return masks, decoder.iou_prediction_head(hidden[:, :, 0])
