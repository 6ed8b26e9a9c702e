"""Forward pass over a half-batch of prompted windows, with replaceable parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from cpcsam.model.decoder import DecoderTrace
from cpcsam.model.gated_points import GatedPointCalibration
from cpcsam.model.sam import CpcSam
from training.bilevel.point_losses import PointTerms, gated_terms, point_terms
from training.data.prompt_batch import PromptBatch

__all__ = ["Forward", "Predictions", "enable_gradient_checkpointing"]


@dataclass(frozen=True)
class Predictions:
    """Outputs of a pass that the objectives read.

    Attributes:
        low_res_masks: (B, P, 4, 4G, 4G) logits.
        iou_predictions: (B, P, 4).
        token_mask: (B, P, N+1).
        image_embeddings: (B, 256, G, G).
        trace: attention maps and calibrations of the same pass.
    """

    low_res_masks: Tensor
    iou_predictions: Tensor
    token_mask: Tensor
    image_embeddings: Tensor
    trace: DecoderTrace


class Forward(nn.Module):
    """One pass over a half-batch as a module, so that its parameters can be substituted.

    With `bf16` the pass runs in mixed precision; parameters and losses stay in float32.
    """

    def __init__(self, model: CpcSam, *, bf16: bool = False) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16

    def forward(self, batch: PromptBatch) -> Predictions:
        """Encode the windows and decode every prompt."""
        trace = DecoderTrace()
        with self._precision(batch.image.device):
            embeddings = self._encode(batch)
            # Points have their own supervision; in Eq. 3 and Eq. 4 they are constants.
            with torch.no_grad():
                moved = self.model.calibrate_points(
                    embeddings, batch.point_coords, batch.point_labels
                )
            sparse, token_mask = self.model.encode_points(embeddings, moved, batch.point_labels)
            dense = self._dense(batch)
            masks, iou = self.model.decode_masks(embeddings, sparse, token_mask, dense, trace)
        return Predictions(masks, iou, token_mask, embeddings, trace)

    @torch.no_grad()
    def embed(self, batch: PromptBatch) -> Tensor:
        """Encode the windows, (B, 256, G, G)."""
        with self._precision(batch.image.device):
            return self._encode(batch)

    def practise(
        self, image_embeddings: Tensor, coords: Tensor, labels: Tensor, accurate_coords: Tensor
    ) -> PointTerms:
        """Calibrate practice points and compare them with the accurate ones, (B, Q, N, 2)."""
        assert self.model.capl is not None and self.model.capl.task is not None
        points = self.model.capl.task.points
        if isinstance(points, GatedPointCalibration):
            with self._precision(image_embeddings.device):
                estimate = points.estimate(image_embeddings, coords, labels)
            unit = self.model.image_size / 16
            return gated_terms(estimate, coords, labels, accurate_coords, unit)
        with self._precision(image_embeddings.device):
            moved = self.model.calibrate_points(image_embeddings, coords, labels)
        return point_terms(moved, labels, accurate_coords)

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def _encode(self, batch: PromptBatch) -> Tensor:
        size, device = batch.image.shape[-1], batch.image.device
        # Windows fill the encoder's frame, so nothing of it is padding.
        input_size = torch.full((len(batch.image), 2), size, dtype=torch.int32, device=device)
        return self.model.encode_image(batch.image, input_size)

    def _dense(self, batch: PromptBatch) -> Tensor | None:
        """Encode coarse masks, or SAM's "no mask" for prompts without; None if none has any."""
        if batch.mask_input is None or batch.has_mask is None:
            return None
        # Batches are float32; the weights of a float64 run do not accept them.
        dtype = self.model.sam.pixel_mean.dtype
        coarse = self.model.encode_masks(batch.mask_input.to(dtype))
        return torch.where(
            batch.has_mask[:, :, None, None, None], coarse, self.model.no_mask_embedding()
        )

    def with_parameters(self, parameters: Mapping[str, Tensor], batch: PromptBatch) -> Predictions:
        """Run the same pass with some of the model's parameters, keyed by name, replaced."""
        if not parameters:
            return self(batch)  # type: ignore[no-any-return]
        replaced = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(self, replaced, (batch,))  # type: ignore[no-any-return]


def enable_gradient_checkpointing(model: CpcSam) -> None:
    """Recompute the image encoder's blocks in θ's backward instead of keeping their activations.

    Only each block's `forward` is replaced, so that no parameter changes its name. Weights that
    `functional_call` substitutes are gone when backward recomputes, so unrolling cannot use this.
    """
    for block in model.sam.image_encoder.blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
