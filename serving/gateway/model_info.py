"""Metadata of the served model."""

from __future__ import annotations

from dataclasses import dataclass

from cpcsam.contract import LOW_RES_FACTOR, grid_size

__all__ = ["ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """Versions of Triton and of the served model, the model's sizes and digests.

    Attributes:
        triton_version: of the server.
        model_version: of the entry point `segment`.
        model_size: `vit_t`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the encoder's input.
        model_digest: identifies the exported model.
        trained_model: digest of the run or base checkpoint it was exported from; vocabularies are
            bound to it.
        mask_prompts: whether prompts may carry a mask.
    """

    triton_version: str
    model_version: str
    model_size: str
    image_size: int
    model_digest: str
    trained_model: str
    mask_prompts: bool

    @property
    def low_res_size(self) -> int:
        """Rows and columns of a mask's logits, 4G."""
        return LOW_RES_FACTOR * grid_size(self.image_size)
