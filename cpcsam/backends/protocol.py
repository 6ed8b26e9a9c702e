"""The backend protocol: encode an image, decode prompts, on numpy arrays.

`cpcsam.model.torch_backend.TorchBackend` and `cpcsam.backends.onnx_backend.OnnxBackend` implement
it; `GraphBackend` adapts whatever runs the contract's graphs one by
one, such as TensorRT engines. Predictors and mask generators call nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import (
    IMAGE_EMBEDDINGS,
    IMAGE_ENCODER,
    MASK_DECODER,
    MASK_DECODER_WITH_MASK,
    MASK_INPUT,
    POINT_COORDS,
    POINT_LABELS,
    PROMPT_ENCODER,
    PROMPT_ENCODER_WITH_MASK,
    GraphSpec,
)

__all__ = ["Backend", "EncoderBackend", "GraphBackend", "RunGraph"]

Array = NDArray[np.float32]


class EncoderBackend(Protocol):
    """Image encoder backend operating on numpy arrays.

    Attributes:
        image_size: side S of the encoder's frame in pixels.
    """

    image_size: int

    def encode(self, image: NDArray[np.uint8], input_size: NDArray[np.int32]) -> Array:
        """Embed images.

        Args:
            image: (B, 3, S, S) uint8, RGB, resized and padded on the right and bottom.
            input_size: (B, 2) int32, (H, W) of the part that is not padding.

        Returns:
            image_embeddings (B, 256, G, G) float32; an encoder of another family may return
            feature maps of another size.
        """


class Backend(EncoderBackend, Protocol):
    """Promptable segmentation backend: the contract's graphs on numpy arrays."""

    def decode(
        self,
        image_embeddings: Array,
        point_coords: Array,
        point_labels: NDArray[np.int32],
        mask_input: Array | None = None,
    ) -> tuple[Array, Array]:
        """Predict the four masks of every prompt.

        Args:
            image_embeddings: (B, 256, G, G) float32.
            point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
            point_labels: (B, P, N) int32, `PointLabel`.
            mask_input: (B, P, 1, 4G, 4G) float32 logits, if every prompt has a mask.

        Returns:
            low_res_masks (B, P, 4, 4G, 4G) float32 logits and iou_predictions (B, P, 4) float32.
        """


RunGraph: TypeAlias = Callable[[GraphSpec, Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]
"""Runs one graph: inputs by name (others are ignored) to its outputs in the contract's order."""


class GraphBackend:
    """`Backend` over a function that runs the contract's graphs one by one.

    Attributes:
        image_size: side S of the encoder's frame in pixels.
    """

    def __init__(self, run: RunGraph, image_size: int) -> None:
        self._run = run
        self.image_size = image_size

    def encode(self, image: NDArray[np.uint8], input_size: NDArray[np.int32]) -> Array:
        """Embed images; see `EncoderBackend.encode`."""
        return self._run(IMAGE_ENCODER, {"image": image, "input_size": input_size})[0]

    def decode(
        self,
        image_embeddings: Array,
        point_coords: Array,
        point_labels: NDArray[np.int32],
        mask_input: Array | None = None,
    ) -> tuple[Array, Array]:
        """Predict the four masks of every prompt; see `Backend.decode`."""
        tensors: dict[str, NDArray[Any]] = {
            IMAGE_EMBEDDINGS.name: image_embeddings,
            POINT_COORDS.name: point_coords,
            POINT_LABELS.name: point_labels,
        }
        encoder, decoder = PROMPT_ENCODER, MASK_DECODER
        if mask_input is not None:
            encoder, decoder = PROMPT_ENCODER_WITH_MASK, MASK_DECODER_WITH_MASK
            tensors[MASK_INPUT.name] = mask_input
        tensors |= dict(zip(encoder.output_names, self._run(encoder, tensors), strict=True))
        low_res_masks, iou_predictions = self._run(decoder, tensors)
        return low_res_masks, iou_predictions
