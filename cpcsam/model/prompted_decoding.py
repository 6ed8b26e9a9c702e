"""Decoding of prompts of an embedded tile to logits in the image, calibrated or not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpcsam.backends.protocol import Backend, CalibratingBackend
from cpcsam.contract import MULTIMASK, SINGLE_MASK, PointLabel
from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.transforms import restore_coords, upscale_masks

__all__ = ["CalibratedPrompt", "Decoded", "decode_prompts"]

Array = NDArray[np.float32]


class CalibratedPrompt(NamedTuple):
    """Prompt as the model took it.

    Attributes:
        point_coords: (N, 2) float32, (X, Y) pixels of the image.
        box: (4,) float32, XYXY pixels of the image, or None.
    """

    point_coords: Array
    box: Array | None


class Decoded(NamedTuple):
    """Outputs of P prompts in a tile, M masks each.

    Attributes:
        logits: (P, M, H, W) float32, of the tile.
        iou_predictions: (P, M) float32.
        low_res_masks: (P, M, 4G, 4G) float32 logits.
        calibrated_coords: (P, N, 2) float32, the points as the model took them, pixels of the
            encoder's frame; None if it calibrates no prompts.
    """

    logits: Array
    iou_predictions: Array
    low_res_masks: Array
    calibrated_coords: Array | None

    def prompt(
        self, points: NDArray[Any], tile: Box, has_box: bool, image_size: int
    ) -> CalibratedPrompt | None:
        """Return the first prompt as the model took it, None if it calibrates no prompts.

        Args:
            points: (N, 2), pixels of the image, (X, Y), of which a box is the last two.
            tile: part of the image in which it was decoded.
            has_box: whether it has a box.
            image_size: side of the encoder's frame.
        """
        if self.calibrated_coords is None:
            return None
        corner = np.array((tile.left, tile.top), np.float32)
        taken = self.calibrated_coords[0, : len(points)]
        places = restore_coords(taken, points - corner, tile.size, image_size) + corner
        count = len(points) - 2 * has_box
        return CalibratedPrompt(places[:count], places[count:].reshape(4) if has_box else None)


def decode_prompts(
    backend: Backend,
    embedded: tuple[Array, tuple[int, int]],
    size: tuple[int, int],
    point_coords: NDArray[Any],
    point_labels: NDArray[Any],
    mask_input: NDArray[Any] | None,
    *,
    multimask: bool,
    calibrate: bool,
) -> Decoded:
    """Decode prompts, and upsample their masks to a tile.

    Args:
        backend: runs the model.
        embedded: image_embeddings (1, 256, G, G) of the tile, and its input_size.
        size: (H, W) of the tile.
        point_coords: (P, N, 2), pixels of the encoder's frame, (X, Y).
        point_labels: (P, N), `PointLabel`.
        mask_input: (P, 1, 4G, 4G) logits, or None.
        multimask: three masks a prompt instead of one.
        calibrate: False takes the prompts as they are given.

    Raises:
        ContractError: the model has a calibration that it cannot do without.
    """
    embeddings, input_size = embedded
    if not point_labels.shape[1]:  # the graphs take at least one slot
        point_coords = np.zeros((len(point_labels), 1, 2))
        point_labels = np.full((len(point_labels), 1), PointLabel.EMPTY)
    inputs = (
        embeddings,
        np.ascontiguousarray(point_coords, np.float32)[None],
        np.ascontiguousarray(point_labels, np.int32)[None],
        None if mask_input is None else np.ascontiguousarray(mask_input, np.float32)[None],
    )
    if isinstance(backend, CalibratingBackend) and backend.calibrates:
        masks, scores, (calibrated,) = backend.decode_calibrated(*inputs, calibrate=calibrate)
    else:
        _require_switch(backend, calibrate)
        masks, scores = backend.decode(*inputs)
        calibrated = None
    chosen = MULTIMASK if multimask else SINGLE_MASK
    masks, scores = masks[0, :, chosen], scores[0, :, chosen]
    logits = upscale_masks(masks, input_size, size, backend.image_size)
    return Decoded(logits, scores, masks, calibrated)


def _require_switch(backend: Backend, calibrate: bool) -> None:
    """Refuse `calibrate=False` for a model whose calibration cannot be switched off.

    Raises:
        ContractError: it may calibrate prompts, and has no switch.
    """
    if not calibrate and isinstance(backend, CalibratingBackend) and backend.calibrates is None:
        raise ContractError.of(
            "calibrate",
            got="False for a model without a switch",
            expected="True, or a model that this version has merged and exported",
            fix="leave it out, or merge and export the model again",
        )
