"""The backend protocol: encode an image, decode prompts, on numpy arrays.

`cpcsam.model.torch_backend.TorchBackend` and `cpcsam.backends.onnx_backend.OnnxBackend` implement
it; `GraphBackend` adapts whatever runs the contract's graphs one by
one, such as TensorRT engines. Predictors and mask generators call nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import (
    CALIBRATE,
    CALIBRATED_COORDS,
    IMAGE_EMBEDDINGS,
    IMAGE_ENCODER,
    IOU_PREDICTIONS,
    LOW_RES_MASKS,
    MASK_DECODER,
    MASK_DECODER_WITH_MASK,
    MASK_INPUT,
    POINT_COORDS,
    POINT_LABELS,
    PROMPT_ENCODER,
    PROMPT_ENCODER_WITH_MASK,
    GraphSpec,
    calibrating,
)

__all__ = ["Backend", "CalibratingBackend", "EncoderBackend", "GraphBackend", "RunGraph"]

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


@runtime_checkable
class CalibratingBackend(Backend, Protocol):
    """Backend that tells prompts as the model took them, and can leave its calibration out.

    Attributes:
        calibrates: whether the model calibrates prompts, and can do without; None if it may
            calibrate them, but has no switch.
    """

    calibrates: bool | None

    def decode_calibrated(
        self,
        image_embeddings: Array,
        point_coords: Array,
        point_labels: NDArray[np.int32],
        mask_input: Array | None = None,
        *,
        calibrate: bool = True,
    ) -> tuple[Array, Array, Array]:
        """Predict masks as `decode`; only where `calibrates` is True.

        Args:
            image_embeddings: as of `decode`.
            point_coords: as of `decode`.
            point_labels: as of `decode`.
            mask_input: as of `decode`.
            calibrate: False takes the prompts as they are given.

        Returns:
            low_res_masks and iou_predictions as of `decode`, and calibrated_coords (B, P, N, 2)
            float32, the points as the model took them, 0 in empty slots.
        """


RunGraph: TypeAlias = Callable[[GraphSpec, Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]
"""Runs one graph: inputs by name (others are ignored) to its outputs in the contract's order."""


class GraphBackend:
    """`Backend` over a function that runs the contract's graphs one by one.

    Attributes:
        image_size: side S of the encoder's frame in pixels.
        calibrates: whether the graphs are those of a model that calibrates prompts; None if they
            have no switch, but their model may.
    """

    def __init__(self, run: RunGraph, image_size: int, *, calibrates: bool | None = False) -> None:
        self._run = run
        self.image_size = image_size
        self.calibrates = calibrates

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
        prompts = image_embeddings, point_coords, point_labels, mask_input
        if self.calibrates:
            return self.decode_calibrated(*prompts)[:2]
        outputs = self._decode(*prompts, calibrate=None)
        return outputs[LOW_RES_MASKS.name], outputs[IOU_PREDICTIONS.name]

    def decode_calibrated(
        self,
        image_embeddings: Array,
        point_coords: Array,
        point_labels: NDArray[np.int32],
        mask_input: Array | None = None,
        *,
        calibrate: bool = True,
    ) -> tuple[Array, Array, Array]:
        """Predict masks and tell the points; see `CalibratingBackend.decode_calibrated`."""
        outputs = self._decode(
            image_embeddings, point_coords, point_labels, mask_input, calibrate=calibrate
        )
        masks, scores = outputs[LOW_RES_MASKS.name], outputs[IOU_PREDICTIONS.name]
        return masks, scores, outputs[CALIBRATED_COORDS.name]

    def _decode(
        self,
        image_embeddings: Array,
        point_coords: Array,
        point_labels: NDArray[np.int32],
        mask_input: Array | None,
        *,
        calibrate: bool | None,
    ) -> dict[str, NDArray[Any]]:
        """Return all tensors by name, from graphs with a switch unless `calibrate` is None."""
        tensors: dict[str, NDArray[Any]] = {
            IMAGE_EMBEDDINGS.name: image_embeddings,
            POINT_COORDS.name: point_coords,
            POINT_LABELS.name: point_labels,
        }
        encoder, decoder = PROMPT_ENCODER, MASK_DECODER
        if mask_input is not None:
            encoder, decoder = PROMPT_ENCODER_WITH_MASK, MASK_DECODER_WITH_MASK
            tensors[MASK_INPUT.name] = mask_input
        if calibrate is not None:
            encoder, decoder = calibrating(encoder), calibrating(decoder)
            tensors[CALIBRATE.name] = np.full((len(point_labels), 1), calibrate, np.float32)
        for graph in (encoder, decoder):
            tensors |= dict(zip(graph.output_names, self._run(graph, tensors), strict=True))
        return tensors
