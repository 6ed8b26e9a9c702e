"""Torch backend: a `CpcSam` behind numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcsam.model.sam import CpcSam

__all__ = ["TorchBackend"]

Array = NDArray[np.float32]


class TorchBackend:
    """`cpcsam.backends.protocol.Backend` over torch, on the device that the model is on.

    Attributes:
        model: in evaluation mode.
        image_size: side S of the encoder's frame in pixels.
        calibrates: whether the model calibrates prompts, and can do without; None if it was merged
            before "no mask" without calibration was kept.
        device: of the model's parameters.
    """

    def __init__(self, model: CpcSam) -> None:
        self.model = model.eval()
        self.image_size = model.image_size
        self.calibrates = model.calibrates or (False if model.capl is None else None)
        self.device = model.sam.pixel_mean.device

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], input_size: NDArray[np.int32]) -> Array:
        """Embed images; see `EncoderBackend.encode`."""
        return _array(self.model.encode_image(self._tensor(image), self._tensor(input_size)))

    def decode(
        self,
        image_embeddings: Array,
        point_coords: Array,
        point_labels: NDArray[np.int32],
        mask_input: Array | None = None,
    ) -> tuple[Array, Array]:
        """Predict the four masks of every prompt; see `Backend.decode`."""
        return self._decode(image_embeddings, point_coords, point_labels, mask_input, None)[:2]

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
        switch = torch.full((len(point_labels), 1), float(calibrate), device=self.device)
        return self._decode(image_embeddings, point_coords, point_labels, mask_input, switch)

    @torch.no_grad()
    def _decode(
        self,
        image_embeddings: Array,
        point_coords: Array,
        point_labels: NDArray[np.int32],
        mask_input: Array | None,
        calibrate: Tensor | None,
    ) -> tuple[Array, Array, Array]:
        embeddings = self._tensor(image_embeddings)
        sparse_embeddings, token_mask, calibrated_coords = self.model.calibrate_prompts(
            embeddings, self._tensor(point_coords), self._tensor(point_labels), calibrate
        )
        dense = None
        if mask_input is not None:
            dense = self.model.encode_masks(self._tensor(mask_input), calibrate)
        low_res_masks, iou_predictions = self.model.decode_masks(
            embeddings, sparse_embeddings, token_mask, dense, calibrate=calibrate
        )
        return _array(low_res_masks), _array(iou_predictions), _array(calibrated_coords)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy()
    return array
