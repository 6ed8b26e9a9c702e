"""A fused model in the form that is traced: same values, weights shared, attention blockwise."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from cpcsam.model.fusion import FusedCpcSam
from export.graphs.blockwise_attention import QUERIES, use_blockwise_attention

__all__ = ["ExportableCpcSam", "exportable"]


class ExportableCpcSam(FusedCpcSam):
    """A fused model whose positional encoding of the grid is a constant, not computed each time."""

    @torch.no_grad()
    def __init__(self, model: FusedCpcSam) -> None:
        super().__init__(model, model.fused_config)
        self.register_buffer("constant_image_pe", model.image_pe().clone(), persistent=False)

    def image_pe(self) -> Tensor:
        """As `CpcSam.image_pe`."""
        return self.get_buffer("constant_image_pe")


def exportable(model: FusedCpcSam, queries: int = QUERIES) -> ExportableCpcSam:
    """Return the model in the form to export; it shares the weights, and the model stays as it is.

    Args:
        model: the fused model.
        queries: of one block of the encoder's attention, at most.
    """
    tensors = [*model.parameters(), *model.buffers()]
    shared = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    use_blockwise_attention(shared.sam.image_encoder, queries)
    return ExportableCpcSam(shared).eval()
