"""Comparison of a running Triton with the golden answers of its version, over Triton's HTTP."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.artifacts.golden import GoldenCase, read_golden, require_same
from cpcsam.contract import (
    IMAGE_EMBEDDINGS,
    INPUT_SIZE,
    MASK_INPUT,
    POINT_COORDS,
    POINT_LABELS,
    MaskSelection,
)
from cpcsam.entry_points import (
    DECODE_WITH_MASK,
    IMAGE_BYTES,
    MASK_SELECTION,
    ORIGINAL_SIZE,
    SCORES,
    SEGMENT,
    SELECTED_LOW_RES_MASKS,
)
from cpcsam.errors import ServingError
from serving.triton.probe import answer_of

__all__ = ["check_golden"]

Tensors = dict[str, NDArray[Any]]
DATATYPES: Final = {"float32": "FP32", "int32": "INT32", "object": "BYTES"}
DTYPES: Final = {"FP32": np.float32, "INT32": np.int32}
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
ANSWERS: Final = (SELECTED_LOW_RES_MASKS.name, SCORES.name)
KEPT: Final = (IMAGE_EMBEDDINGS.name, INPUT_SIZE.name, ORIGINAL_SIZE.name)


def check_golden(version: Path, address: str, timeout_s: float) -> int:
    """Compare a server's answers with the golden ones of its version; this also warms it up.

    Args:
        version: folder of the version that it serves.
        address: HOST:PORT of its HTTP.
        timeout_s: of each of its answers.

    Returns:
        The number of images; 0 if the version was published without golden answers.

    Raises:
        ArtifactError: the golden answers cannot be read.
        ServingError: an answer differs, or there is none.
    """
    golden = read_golden(version)
    if golden is None:
        return 0
    cases, tolerance = golden
    for number, case in enumerate(cases):
        try:
            answers = _answers(case, address, timeout_s)
        except OSError as error:
            raise ServingError.of(
                f"Triton at {address}", got=str(error), expected="an answer", fix="see its log"
            ) from error
        require_same(case, answers, tolerance, f"image {number}")
    return len(cases)


def _answers(case: GoldenCase, address: str, timeout_s: float) -> Tensors:
    prompts: Tensors = {
        POINT_COORDS.name: case.point_coords[None],
        POINT_LABELS.name: case.point_labels[None],
        MASK_SELECTION.name: np.array([[MaskSelection.SINGLE]], np.int32),
    }
    image = np.array([[case.image_bytes.tobytes()]], object)
    inputs = prompts | {IMAGE_BYTES.name: image}
    first = _infer(address, SEGMENT.name, inputs, (*ANSWERS, *KEPT), timeout_s)
    masks, scores = (first.pop(name) for name in ANSWERS)
    # Of the golden masks, not of its own: differences would add up.
    refining = prompts | first | {MASK_INPUT.name: case.low_res_masks[None, :, None]}
    refined = _infer(address, DECODE_WITH_MASK.name, refining, ANSWERS, timeout_s)
    refined_masks, refined_scores = (refined[name] for name in ANSWERS)
    return {
        "low_res_masks": masks[0, :, 0],
        "scores": scores[0, :, 0],
        "refined_masks": refined_masks[0, :, 0],
        "refined_scores": refined_scores[0, :, 0],
    }


def _infer(
    address: str, model: str, inputs: Tensors, outputs: tuple[str, ...], timeout_s: float
) -> Tensors:
    """Call a model by Triton's binary tensor protocol."""
    contents = {name: _content(array) for name, array in inputs.items()}
    described = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": DATATYPES[array.dtype.name],
            "parameters": {"binary_data_size": len(contents[name])},
        }
        for name, array in inputs.items()
    ]
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    header = json.dumps({"inputs": described, "outputs": wanted}).encode()
    answer = answer_of(
        address,
        "POST",
        f"/v2/models/{model}/infer",
        timeout_s=timeout_s,
        body=b"".join([header, *contents.values()]),
        headers={HEADER_LENGTH: str(len(header))},
    )
    # The header is JSON, and so it ends where its first object does.
    text = answer.decode("latin-1")
    response, start = json.JSONDecoder().raw_decode(text)
    tensors = {}
    for tensor in response["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        content, start = answer[start : start + size], start + size
        array = np.frombuffer(content, DTYPES[tensor["datatype"]])
        tensors[tensor["name"]] = array.reshape(tensor["shape"])
    return tensors


def _content(array: NDArray[Any]) -> bytes:
    if array.dtype == object:
        (value,) = array.ravel()
        return struct.pack("<I", len(value)) + bytes(value)
    return array.tobytes()
