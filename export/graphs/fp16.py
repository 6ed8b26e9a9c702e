"""Mixed-precision form of a model: float16 weights, float32 where float16 is known to fail.

The same form in bfloat16, which no exported graph has, is there to be compared with it.

The graph itself states every precision, as strongly typed TensorRT requires: weights are float16,
and casts surround the float32 parts. Those are every LayerNorm, whose sums overflow or lose digits,
and the arithmetic on pixels and coordinates, which exceed float16's resolution. Softmax has none,
as casts between the products of an attention keep TensorRT from fusing it; its kernels sum in
float32. Inputs and outputs stay those of the contract, so graphs of any precision are
interchangeable.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn

from cpcsam.errors import ExportError
from cpcsam.model.decoder import DecoderForm, DecoderTrace
from export.graphs.traceable import TraceableCpcSam

__all__ = ["Fp16CpcSam", "to_fp16"]

FULL_PRECISION = (nn.LayerNorm, LayerNorm2d, PositionEmbeddingRandom)
NORMS = (nn.LayerNorm, LayerNorm2d)
WEIGHTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class Fp16CpcSam(TraceableCpcSam):
    """A traceable model computing in float16 between the contract's float32 tensors.

    Attributes:
        dtype: float16, or bfloat16.
    """

    # Its attentions are of the form that TensorRT fuses.
    decoder_form = DecoderForm

    def __init__(self, model: TraceableCpcSam, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.dtype = dtype

    def encode_image(self, image: Tensor, input_size: Tensor) -> Tensor:
        """Run `CpcSam.encode_image`; pixels are normalised in float32."""
        return super().encode_image(image, input_size).float()

    def embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Run `CpcSam.embed_points` on float32 coordinates; the embeddings are of `dtype`."""
        return super().embed_points(point_coords, point_labels).to(self.dtype)

    def calibrate_prompts(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        calibrate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run `CpcSam.calibrate_prompts` in `dtype`."""
        sparse_embeddings, token_mask, calibrated_coords = super().calibrate_prompts(
            image_embeddings.to(self.dtype), point_coords, point_labels, calibrate
        )
        return sparse_embeddings.float(), token_mask.float(), calibrated_coords

    def encode_masks(self, mask_input: Tensor, calibrate: Tensor | None = None) -> Tensor:
        """Run `CpcSam.encode_masks` in `dtype`."""
        return super().encode_masks(mask_input.to(self.dtype), calibrate).float()

    def decode_masks(
        self,
        image_embeddings: Tensor,
        sparse_embeddings: Tensor,
        token_mask: Tensor,
        dense_embeddings: Tensor | None = None,
        trace: DecoderTrace | None = None,
        calibrate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run `CpcSam.decode_masks` in `dtype`."""
        low_res_masks, iou_predictions = super().decode_masks(
            image_embeddings.to(self.dtype),
            sparse_embeddings.to(self.dtype),
            token_mask.to(self.dtype),
            None if dense_embeddings is None else dense_embeddings.to(self.dtype),
            trace,
            calibrate,
        )
        return low_res_masks.float(), iou_predictions.float()


def to_fp16(model: TraceableCpcSam, dtype: torch.dtype = torch.float16) -> Fp16CpcSam:
    """Return a copy of a model in mixed float16 and float32.

    Args:
        model: float32; left unchanged.
        dtype: bfloat16 takes the place of float16.

    Raises:
        ExportError: a weight exceeds the largest number of `dtype`, 65504 of float16.
    """
    half = Fp16CpcSam(copy.deepcopy(model), dtype)
    # Buffers, which the loop over parameters below does not reach.
    half.constant_image_pe = half.image_pe().to(dtype)
    if half.given_no_mask_embed is not None:
        half.given_no_mask_embed = half.given_no_mask_embed.to(dtype)
    for name, module in half.named_modules():
        if not isinstance(module, FULL_PRECISION):
            _halve_weights(name, module, dtype)
        # A norm computes in float32; the hook on its output returns to float16.
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(partial(_inputs_to, torch.float32))
        if isinstance(module, FULL_PRECISION):
            module.register_forward_hook(partial(_output_to, dtype))
        elif isinstance(module, WEIGHTED):
            module.register_forward_pre_hook(partial(_inputs_to, dtype))
    return half.eval()


def _halve_weights(name: str, module: nn.Module, dtype: torch.dtype) -> None:
    for parameter_name, parameter in module.named_parameters(recurse=False):
        largest = float(parameter.abs().max())
        if not largest <= torch.finfo(dtype).max:
            raise ExportError.of(
                f"{name}.{parameter_name}",
                got=f"a weight of {largest:.3g}",
                expected=f"at most {torch.finfo(dtype).max:.6g}, the largest of {dtype}",
                fix="export with --precision fp32",
            )
        parameter.data = parameter.data.to(dtype)


def _inputs_to(
    dtype: torch.dtype, module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    return tuple(tensor.to(dtype) for tensor in inputs)


def _output_to(dtype: torch.dtype, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.to(dtype)
