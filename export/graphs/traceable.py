"""Traceable form of a fused model: equal outputs, shared weights, attentions for the target."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from cpcsam.model.decoder import DecoderForm
from cpcsam.model.fusion import FusedCpcSam
from export.graphs.attention import BlockwiseAttention, MakeAttention, use_attention
from export.graphs.mask_decoder import TokenSideForm

__all__ = ["TraceableCpcSam", "make_traceable"]


class TraceableCpcSam(FusedCpcSam):
    """A fused model with a constant encoding of positions and fewer products in the decoder."""

    decoder_form: ClassVar[type[DecoderForm]] = TokenSideForm

    @torch.no_grad()
    def __init__(self, model: FusedCpcSam) -> None:
        super().__init__(model, model.fused_config, model.given_no_mask_embed)
        self.register_buffer("constant_image_pe", model.image_pe().clone(), persistent=False)

    def image_pe(self) -> Tensor:
        """Return `CpcSam.image_pe`, computed once."""
        return self.get_buffer("constant_image_pe")


def make_traceable(
    model: FusedCpcSam, attention: MakeAttention = BlockwiseAttention
) -> TraceableCpcSam:
    """Return the traceable form of a model, in evaluation mode.

    Args:
        model: the fused model; left unchanged, its weights are shared.
        attention: form of the encoder's attention.
    """
    # A memo of the tensors makes deepcopy copy the modules and share the weights.
    tensors = [*model.parameters(), *model.buffers()]
    shared = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    use_attention(shared.sam.image_encoder, attention)
    return TraceableCpcSam(shared).eval()
