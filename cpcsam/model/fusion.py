"""Fusion of LoRA into its weights and of CaPL's entity module into the decoder's projections.

A fused model has the outputs of the calibrated model with fewer operators. The logit bias
G Hᵀ is a dot product of r more channels a head, so H joins the image side's projection and √d·G
becomes `FusedAttention.token_mlp`; √d undoes the scale 1/√d of the logits. The task module stays,
as it reads prompts; its calibration of "no mask" is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor, nn

from cpcsam.model.build_sam import build_sam
from cpcsam.model.capl import CaPL, CaplConfig, FusedAttention, SiteCalibration
from cpcsam.model.lora import merge_lora
from cpcsam.model.sam import CpcSam, choose_calibrated

__all__ = ["FusedCpcSam", "build_merged", "fuse"]


class FusedCpcSam(CpcSam):
    """A `CpcSam` with LoRA merged, the entity module fused and "no mask" calibrated.

    Attributes:
        fused_config: of the CaPL that was fused, None without CaPL. `capl` holds what is left of
            it, the task module.
        given_no_mask_embed: (1, 256), "no mask" without calibration, a buffer; None without a task
            module, and for models merged before it was kept.
    """

    given_no_mask_embed: Tensor | None

    def __init__(
        self,
        model: CpcSam,
        fused_config: CaplConfig | None,
        given_no_mask_embed: Tensor | None = None,
    ) -> None:
        super().__init__(model.sam, model.capl)
        self.fused_config = fused_config
        self.register_buffer("given_no_mask_embed", given_no_mask_embed)

    @property
    def calibrates(self) -> bool:
        """Whether prompts are calibrated, and the calibration can be switched off."""
        if self.fused_config is None:
            return False
        return not self.fused_config.task or self.given_no_mask_embed is not None

    def no_mask_embedding(self, calibrate: Tensor | None = None) -> Tensor:
        """Return `CpcSam.no_mask_embedding`, which was calibrated when it was fused."""
        embedding: Tensor = self.sam.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        if calibrate is None or self.given_no_mask_embed is None:
            return embedding
        return choose_calibrated(calibrate, embedding, self.given_no_mask_embed[:, :, None, None])


def fuse(model: CpcSam) -> FusedCpcSam:
    """Return a fused copy: same outputs within rounding, no LoRA layer, no explicit calibration."""
    merged = merge_lora(model)
    if merged.capl is None:
        return FusedCpcSam(merged, None).eval()
    config, entity, given = merged.capl.config, merged.capl.entity, None
    with torch.no_grad():
        # FusedCpcSam reads this weight as it is, so that it is calibrated exactly once.
        calibrated = merged.no_mask_embedding().flatten(1)
        if config.task:
            given = merged.sam.prompt_encoder.no_mask_embed.weight.clone()
        merged.sam.prompt_encoder.no_mask_embed.weight.copy_(calibrated)
    if entity is not None:
        transformer = merged.sam.mask_decoder.transformer
        for place, site in zip(_cross_attentions(transformer), entity.sites, strict=True):
            parent, name, tokens_are_queries = place
            fused = _empty_attention(getattr(parent, name), config, tokens_are_queries)
            _fill_attention(
                fused, getattr(parent, name), cast(SiteCalibration, site), tokens_are_queries
            )
            setattr(parent, name, fused)
        merged.capl.entity = None
    if merged.capl.task is None:
        merged.capl = None
    return FusedCpcSam(merged, config, given).requires_grad_(False).eval()


def build_merged(
    model_size: str, image_size: int, capl: CaplConfig | None, *, calibrates: bool = True
) -> FusedCpcSam:
    """Build the structure of a fused model, to be filled with a merged model's weights.

    Args:
        model_size: `vit_t`, `vit_b`, ...
        image_size: side S of the encoder's frame.
        capl: configuration of its CaPL, None without CaPL.
        calibrates: with "no mask" as it was before calibration, which models that were merged
            before it was kept lack.

    Raises:
        ConfigError: unknown model_size or image_size.
    """
    model = CpcSam(build_sam(model_size, image_size))
    if capl is None:
        return FusedCpcSam(model, None)
    if capl.entity:
        for parent, name, tokens_are_queries in _cross_attentions(
            model.sam.mask_decoder.transformer
        ):
            setattr(parent, name, _empty_attention(getattr(parent, name), capl, tokens_are_queries))
    if capl.task:
        model.capl = CaPL(replace(capl, entity=False))
    given = model.sam.prompt_encoder.no_mask_embed.weight.detach().clone()
    return FusedCpcSam(model, capl, given if capl.task and calibrates else None)


def _cross_attentions(transformer: TwoWayTransformer) -> Iterator[tuple[nn.Module, str, bool]]:
    """Yield (parent, attribute, tokens are the queries) of the cross-attentions, in site order."""
    for layer in transformer.layers:
        yield layer, "cross_attn_token_to_image", True
        yield layer, "cross_attn_image_to_token", False
    yield transformer, "final_attn_token_to_image", True


def _empty_attention(
    attn: Attention, config: CaplConfig, tokens_are_queries: bool
) -> FusedAttention:
    return FusedAttention(
        embed_dim=attn.embedding_dim,
        num_heads=attn.num_heads,
        head_dim=attn.internal_dim // attn.num_heads,
        rank=config.rank,
        hidden_dim=config.hidden_dim,
        tokens_are_queries=tokens_are_queries,
    )


@torch.no_grad()
def _fill_attention(
    fused: FusedAttention, attn: Attention, site: SiteCalibration, tokens_are_queries: bool
) -> None:
    """Copy an attention's weights, with H appended to the image side's and √d·G as token_mlp."""
    token_side, image_side = ("q_proj", "k_proj") if tokens_are_queries else ("k_proj", "q_proj")
    for name in (token_side, "v_proj", "out_proj"):
        getattr(fused, name).load_state_dict(getattr(attn, name).state_dict())

    projection, wide = getattr(attn, image_side), getattr(fused, image_side)
    heads = attn.num_heads
    # Appended to each head, as `separate_heads` splits the channels into equal heads.
    per_head = [module.weight.unflatten(0, (heads, -1)) for module in (projection, site.image_proj)]
    wide.weight.copy_(torch.cat(per_head, dim=1).flatten(0, 1))
    bias = projection.bias.unflatten(0, (heads, -1))
    # H has no bias.
    no_bias = bias.new_zeros(heads, wide.out_features // heads - bias.shape[1])
    wide.bias.copy_(torch.cat([bias, no_bias], dim=1).flatten())

    fused.token_mlp.load_state_dict(site.token_mlp.state_dict())
    head_dim = attn.internal_dim // heads
    for parameter in fused.token_mlp[-1].parameters():
        parameter.mul_(math.sqrt(head_dim))
