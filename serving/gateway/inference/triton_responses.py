"""Typed responses of Triton: masks and embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult

from cpcsam.contract import (
    AREAS,
    BBOXES,
    IMAGE_EMBEDDINGS,
    INPUT_SIZE,
    MASKS_RLE,
    ORIGINAL_SIZE,
    SCORES,
    SELECTED_LOW_RES_MASKS,
    STABILITY,
)
from cpcsam.errors import ServingError
from serving.gateway.inference.prompt_batches import PromptChunk

__all__ = ["ChunkMasks", "Encoded", "encoded_from_result", "masks_from_result", "output"]


@dataclass(frozen=True)
class ChunkMasks:
    """Masks of one chunk: M for each real prompt.

    Attributes:
        counts: (P, M) COCO run lengths, as bytes.
        bboxes: (P, M, 4) int32, XYXY.
        areas: (P, M) int32, pixels.
        scores: (P, M) float32, predicted IoU.
        stability: (P, M) float32.
        low_res_masks: (P, M, 4G, 4G) float32 logits, if requested.
    """

    counts: NDArray[np.object_]
    bboxes: NDArray[np.int32]
    areas: NDArray[np.int32]
    scores: NDArray[np.float32]
    stability: NDArray[np.float32]
    low_res_masks: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Encoded:
    """Embedding of an image or tile with its sizes; batch first.

    Attributes:
        image_embeddings: (1, C, G, G).
        input_size: (1, 2) int32, (H, W) in the encoder's frame without the padding.
        original_size: (1, 2) int32, (H, W) of the image or tile as it was decoded.
    """

    image_embeddings: NDArray[Any]
    input_size: NDArray[np.int32]
    original_size: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.image_embeddings.nbytes + self.input_size.nbytes + self.original_size.nbytes

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image or tile as it was decoded; its masks have this size."""
        height, width = self.original_size[0]
        return int(height), int(width)


def output(result: InferResult, name: str) -> NDArray[Any]:
    """Return an output tensor of a model.

    Raises:
        ServingError: the response lacks it.
    """
    array: NDArray[Any] | None = result.as_numpy(name)
    if array is None:
        raise ServingError.of(
            name,
            got="no such output from Triton",
            expected="the outputs of the tensor contract",
            fix="rebuild the model repository with this version",
        )
    return array


def masks_from_result(result: InferResult, chunk: PromptChunk, low_res: bool) -> ChunkMasks:
    """Parse masks, optionally with their logits, without batch dimension and padding prompts."""

    def real(name: str) -> NDArray[Any]:
        return output(result, name)[0, : chunk.count]

    return ChunkMasks(
        counts=real(MASKS_RLE.name),
        bboxes=real(BBOXES.name),
        areas=real(AREAS.name),
        scores=real(SCORES.name),
        stability=real(STABILITY.name),
        low_res_masks=real(SELECTED_LOW_RES_MASKS.name) if low_res else None,
    )


def encoded_from_result(result: InferResult) -> Encoded:
    """Parse the embedding, for further chunks of the same image."""
    return Encoded(
        output(result, IMAGE_EMBEDDINGS.name),
        output(result, INPUT_SIZE.name),
        output(result, ORIGINAL_SIZE.name),
    )
