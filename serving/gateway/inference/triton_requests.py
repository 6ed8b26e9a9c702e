"""Inputs and outputs of calls to Triton, and their messages.

Each tensor is copied once, into the message. tritonclient copies it four times; for an image of 32
MB that takes a tenth of a second, in which no other thread runs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from cpcsam.contract import CALIBRATE, POINT_COORDS, POINT_LABELS
from cpcsam.entry_points import (
    AREAS,
    BBOXES,
    CALIBRATED_POINT_COORDS,
    MASK_SELECTION,
    MASK_THRESHOLDS,
    MASKS_RLE,
    SCORES,
    SELECTED_LOW_RES_MASKS,
    STABILITY,
)
from serving.gateway.inference.prompt_batches import PromptChunk

__all__ = ["InputTensor", "bytes_input", "infer_input", "mask_outputs", "message", "prompt_inputs"]

MASK_OUTPUTS: Final = (MASKS_RLE.name, BBOXES.name, AREAS.name, SCORES.name, STABILITY.name)

_CONTENTS: Final = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"]
CONTENT_TAG: Final = bytes([_CONTENTS.number << 3 | 2])
"""Tag of a field that has a length, on the wire."""


@dataclass(frozen=True)
class InputTensor:
    """Input of a call.

    Attributes:
        name: of the tensor contract.
        datatype: as Triton names it, such as FP32.
        shape: with the batch first.
        pieces: its bytes in Triton's layout, not copied.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    pieces: tuple[bytes | memoryview, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(map(len, self.pieces))


def message(
    model: str, request_id: str, inputs: Sequence[InputTensor], outputs: Sequence[str]
) -> bytes:
    """Return the serialised `ModelInferRequest` of a call.

    Args:
        model: its name.
        request_id: for Triton's log.
        inputs: of the call.
        outputs: names of the requested outputs.
    """
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for tensor in inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    for name in outputs:
        request.outputs.add(name=name)
    return b"".join(_parts(request.SerializeToString(), inputs))


def _parts(head: bytes, inputs: Sequence[InputTensor]) -> Iterator[bytes | memoryview]:
    """Yield the message without contents, and these; a repeated field may come later."""
    yield head
    for tensor in inputs:
        yield CONTENT_TAG + _varint(tensor.nbytes)
        yield from tensor.pieces


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def mask_outputs(chunk: PromptChunk, low_res: bool) -> tuple[str, ...]:
    """Return the outputs of a chunk's decode that are requested, with the logits or without."""
    logits = (SELECTED_LOW_RES_MASKS.name,) if low_res else ()
    points = () if chunk.calibrate is None else (CALIBRATED_POINT_COORDS.name,)
    return (*MASK_OUTPUTS, *logits, *points)


def prompt_inputs(
    chunk: PromptChunk, mask_selection: int, thresholds: Sequence[float] | None = None
) -> list[InputTensor]:
    """Return a chunk's prompts, without their masks, as inputs."""
    inputs = [
        infer_input(POINT_COORDS.name, chunk.point_coords),
        infer_input(POINT_LABELS.name, chunk.point_labels),
        infer_input(MASK_SELECTION.name, np.array([[mask_selection]], np.int32)),
    ]
    if chunk.calibrate is False:  # else the model's default holds
        inputs.append(infer_input(CALIBRATE.name, np.zeros((1, 1), np.float32)))
    if thresholds is not None:
        inputs.append(infer_input(MASK_THRESHOLDS.name, np.array([thresholds], np.float64)))
    return inputs


def infer_input(name: str, array: NDArray[Any]) -> InputTensor:
    """Return an array of numbers as an input."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return InputTensor(name, np_to_triton_dtype(array.dtype), array.shape, (content.data,))


def bytes_input(name: str, value: bytes) -> InputTensor:
    """Return bytes as an input of one image, (1, 1)."""
    return InputTensor(name, "BYTES", (1, 1), (struct.pack("<I", len(value)), value))
