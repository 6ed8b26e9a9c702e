"""Typed responses of Triton: masks, embeddings and errors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from cpcsam.contract import IMAGE_EMBEDDINGS, INPUT_SIZE
from cpcsam.entry_points import (
    AREAS,
    BBOXES,
    CALIBRATED_POINT_COORDS,
    IMAGE_KEY,
    MASKS_RLE,
    ORIGINAL_SIZE,
    SCORES,
    SELECTED_LOW_RES_MASKS,
    STABILITY,
)
from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import DeadlineError, LimitError, UnavailableError
from serving.gateway.inference.prompt_batches import PromptChunk

__all__ = [
    "DEAD_STEP",
    "UNREACHABLE",
    "ChunkMasks",
    "Encoded",
    "NotStoredError",
    "encoded_from_result",
    "error_from_triton",
    "fault_of",
    "is_not_stored",
    "masks_from_result",
    "no_replica",
    "output",
]


class NotStoredError(ServingError):
    """Triton does not keep the named embedding any more."""


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
        point_coords: (P, N, 2) float32, pixels of the image or tile, as the model took them, if
            requested.
    """

    counts: NDArray[np.object_]
    bboxes: NDArray[np.int32]
    areas: NDArray[np.int32]
    scores: NDArray[np.float32]
    stability: NDArray[np.float32]
    low_res_masks: NDArray[np.float32] | None = None
    point_coords: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Encoded:
    """Embedding of an image or tile with its sizes; batch first.

    Attributes:
        key: its name in Triton.
        image_embeddings: (1, C, G, G).
        input_size: (1, 2) int32, (H, W) in the encoder's frame without the padding.
        original_size: (1, 2) int32, (H, W) of the image or tile as it was decoded.
    """

    key: bytes
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
        point_coords=None if chunk.calibrate is None else real(CALIBRATED_POINT_COORDS.name),
    )


def encoded_from_result(result: InferResult, key: bytes) -> Encoded:
    """Parse the embedding, for further chunks of the same image."""
    return Encoded(
        key,
        output(result, IMAGE_EMBEDDINGS.name),
        output(result, INPUT_SIZE.name),
        output(result, ORIGINAL_SIZE.name),
    )


LOG = logging.getLogger(__name__)
DEAD_STEP: Final = "a step's process is dead"
UNREACHABLE: Final = "not reachable, or without the model"


def fault_of(error: InferenceServerException) -> str | None:
    """Return why Triton itself cannot answer, or None if another call may well succeed.

    Args:
        error: as tritonclient raises it; its status reads like `StatusCode.UNAVAILABLE`.
    """
    status, details = _parse(error)
    # The message of the Python backend, which never restarts a process that it misses.
    if "Stub process" in details and "not healthy" in details:
        return DEAD_STEP
    if status == "NOT_FOUND" and not is_not_stored(error):
        return UNREACHABLE
    if status == "UNAVAILABLE" and not _is_queue_full(details):
        return UNREACHABLE
    return None


def is_not_stored(error: InferenceServerException) -> bool:
    """Return whether Triton misses an embedding that a call named."""
    status, details = _parse(error)
    return status == "NOT_FOUND" and details.startswith(f"{IMAGE_KEY.name}: ")


def no_replica() -> UnavailableError:
    """Return the error of a request that no Triton can answer."""
    return UnavailableError.of(
        "inference server",
        got="none that is ready",
        expected="Triton with the model loaded",
        fix="try again; if it stays away, see its log",
    )


def error_from_triton(error: InferenceServerException, address: str) -> CpcSamError:
    """Convert a failure of Triton, or of the connection to it, to an error of the project.

    Messages about a wrong request are passed on to the caller; messages about Triton itself are
    logged.

    Args:
        error: as tritonclient raises it.
        address: of the server, for the log.
    """
    status, details = _parse(error)
    if status == "INVALID_ARGUMENT":
        return ContractError(details)
    if status == "DEADLINE_EXCEEDED" or details == "Request timeout expired":
        return DeadlineError.of(
            "deadline", got="no answer", expected="an answer in time", fix="allow more time"
        )
    if status == "UNAVAILABLE" and _is_queue_full(details):
        return LimitError.of(
            "Triton's queue", got="full", expected="a free place", fix="try again in a moment"
        )
    if is_not_stored(error):
        return NotStoredError(details)
    LOG.error("Triton at %s: %s: %s", address, status, details)
    if fault_of(error) is not None:
        return no_replica()
    return ServingError.of(
        "inference server", got="a failure", expected="masks", fix="see the gateway's log"
    )


def _parse(error: InferenceServerException) -> tuple[str, str]:
    """Return the name of the status and the message, without the ensemble that it begins with."""
    status = str(error.status()).removeprefix("StatusCode.")
    message = str(error.message())
    head, separator, tail = message.partition(", ")
    return status, tail if separator and head.startswith("in ensemble ") else message


def _is_queue_full(details: str) -> bool:
    # Triton reports it only by its message.
    return "maximum queue size" in details
