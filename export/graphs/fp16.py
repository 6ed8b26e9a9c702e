"""Mixed-precision form of a model: float16 weights, float32 where float16 is known to fail.

The graph itself states every precision, as strongly typed TensorRT requires: weights are float16,
and casts surround the float32 parts. Those are every LayerNorm and softmax, whose sums overflow or
lose digits, and the arithmetic on pixels and coordinates, which exceed float16's resolution. Inputs
and outputs stay those of the contract, so graphs of any precision are interchangeable.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn

from cpcsam.errors import ExportError
from cpcsam.model.decoder import DecoderTrace
from export.graphs.traceable import TraceableCpcSam

__all__ = ["Fp16CpcSam", "to_fp16"]

FULL_PRECISION = (nn.LayerNorm, LayerNorm2d, PositionEmbeddingRandom)
NORMS = (nn.LayerNorm, LayerNorm2d)
WEIGHTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class Fp16CpcSam(TraceableCpcSam):
    """A traceable model computing in float16 between the contract's float32 tensors."""

    def encode_image(self, image: Tensor, input_size: Tensor) -> Tensor:
        """Run `CpcSam.encode_image`; pixels are normalised in float32."""
        return super().encode_image(image, input_size).float()

    def embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Run `CpcSam.embed_points` on float32 coordinates; the embeddings are float16."""
        return super().embed_points(point_coords, point_labels).half()

    def encode_prompts(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run `CpcSam.encode_prompts` in float16."""
        sparse_embeddings, token_mask = super().encode_prompts(
            image_embeddings.half(), point_coords, point_labels
        )
        return sparse_embeddings.float(), token_mask.float()

    def encode_masks(self, mask_input: Tensor) -> Tensor:
        """Run `CpcSam.encode_masks` in float16."""
        return super().encode_masks(mask_input.half()).float()

    def decode_masks(
        self,
        image_embeddings: Tensor,
        sparse_embeddings: Tensor,
        token_mask: Tensor,
        dense_embeddings: Tensor | None = None,
        trace: DecoderTrace | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run `CpcSam.decode_masks` in float16."""
        low_res_masks, iou_predictions = super().decode_masks(
            image_embeddings.half(),
            sparse_embeddings.half(),
            token_mask.half(),
            None if dense_embeddings is None else dense_embeddings.half(),
            trace,
        )
        return low_res_masks.float(), iou_predictions.float()


def to_fp16(model: TraceableCpcSam) -> Fp16CpcSam:
    """Return a copy of a model in mixed float16 and float32.

    Args:
        model: float32; left unchanged.

    Raises:
        ExportError: a weight exceeds 65504, the largest float16.
    """
    half = Fp16CpcSam(copy.deepcopy(model))
    # A buffer, which the loop over parameters below does not reach.
    half.constant_image_pe = half.image_pe().half()
    for name, module in half.named_modules():
        if not isinstance(module, FULL_PRECISION):
            _halve_weights(name, module)
        # A norm computes in float32; the hook on its output returns to float16.
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(_inputs_to_float)
        if isinstance(module, FULL_PRECISION):
            module.register_forward_hook(_output_to_half)
        elif isinstance(module, WEIGHTED):
            module.register_forward_pre_hook(_inputs_to_half)
    return half.eval()


def _halve_weights(name: str, module: nn.Module) -> None:
    for parameter_name, parameter in module.named_parameters(recurse=False):
        largest = float(parameter.abs().max())
        if not largest <= torch.finfo(torch.float16).max:
            raise ExportError.of(
                f"{name}.{parameter_name}",
                got=f"a weight of {largest:.3g}",
                expected="at most 65504, the largest of float16",
                fix="export with --precision fp32",
            )
        parameter.data = parameter.data.half()


def _inputs_to_float(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() for tensor in inputs)


def _inputs_to_half(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.half() for tensor in inputs)


def _output_to_half(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.half()
