"""Inputs and outputs of calls to Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.utils import np_to_triton_dtype

from cpcsam.contract import POINT_COORDS, POINT_LABELS
from cpcsam.entry_points import (
    AREAS,
    BBOXES,
    MASK_SELECTION,
    MASK_THRESHOLDS,
    MASKS_RLE,
    SCORES,
    SELECTED_LOW_RES_MASKS,
    STABILITY,
)
from serving.gateway.inference.prompt_batches import PromptChunk

__all__ = ["bytes_input", "infer_input", "mask_outputs", "prompt_inputs"]

MASK_OUTPUTS: Final = (MASKS_RLE.name, BBOXES.name, AREAS.name, SCORES.name, STABILITY.name)


def mask_outputs(low_res: bool) -> tuple[str, ...]:
    """Return the outputs of a decode that are requested, with the logits or without."""
    return (*MASK_OUTPUTS, SELECTED_LOW_RES_MASKS.name) if low_res else MASK_OUTPUTS


def prompt_inputs(
    chunk: PromptChunk, mask_selection: int, thresholds: Sequence[float] | None = None
) -> list[InferInput]:
    """Return a chunk's prompts, without their masks, as inputs."""
    inputs = [
        infer_input(POINT_COORDS.name, chunk.point_coords),
        infer_input(POINT_LABELS.name, chunk.point_labels),
        infer_input(MASK_SELECTION.name, np.array([[mask_selection]], np.int32)),
    ]
    if thresholds is not None:
        inputs.append(infer_input(MASK_THRESHOLDS.name, np.array([thresholds], np.float64)))
    return inputs


def infer_input(name: str, array: NDArray[Any]) -> InferInput:
    """Return an array as an input."""
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def bytes_input(name: str, value: bytes) -> InferInput:
    """Return bytes as an input of one image, (1, 1)."""
    return infer_input(name, np.array([[value]], dtype=np.object_))
