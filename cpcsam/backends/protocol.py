"""The backend protocol: encode an image, decode prompts, on numpy arrays.

`cpcsam.model.torch_backend.TorchBackend` and `cpcsam.backends.onnx_backend.OnnxBackend` implement
it; `cpcsam.backends.graph_backend.GraphBackend` adapts whatever runs the contract's graphs one by
one, such as TensorRT engines. Predictors and mask generators call nothing else.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "EncoderBackend"]

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
