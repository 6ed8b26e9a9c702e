"""Probes of Triton: tiny inferences that pass through every step of its entry points."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from cpcsam.contract import IMAGE_EMBEDDINGS, INPUT_SIZE, MASK_INPUT, MaskSelection
from cpcsam.entry_points import (
    DECODE,
    DECODE_WITH_MASK,
    ENCODE,
    IMAGE_BYTES,
    IMAGE_KEY,
    ORIGINAL_SIZE,
    SCORES,
    SEGMENT,
)
from serving.gateway.context import ModelInfo
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.triton_requests import (
    InputTensor,
    bytes_input,
    infer_input,
    prompt_inputs,
)

__all__ = ["probed_entry_points", "probe_inputs", "probe_outputs"]

SIDE: Final = 8
"""Height and width of the image, pixels."""
KEY: Final = b"probe"
"""Name of its embedding in Triton; those of images are digests."""


def probed_entry_points(steps: Mapping[str, frozenset[str]]) -> list[str]:
    """Choose entry points that together run every step: `segment`, and others with own steps.

    Args:
        steps: models that each entry point runs.
    """
    chosen: list[str] = []
    passed: set[str] = set()
    for spec in (SEGMENT, ENCODE, DECODE, DECODE_WITH_MASK):
        if not steps.get(spec.name, passed) <= passed:
            chosen.append(spec.name)
            passed |= steps[spec.name]
    return chosen


def probe_inputs(entry_point: str, model: ModelInfo) -> list[InputTensor]:
    """Return the inputs of a probe.

    Those of a decode name the embedding that a probe of `segment` makes Triton keep.
    """
    if entry_point == ENCODE.name:
        return [bytes_input(IMAGE_BYTES.name, _picture())]
    (chunk,) = chunk_tensors(np.full((1, 1, 2), SIDE / 2, np.float32), np.ones((1, 1), np.int32))
    inputs = [bytes_input(IMAGE_KEY.name, KEY), *prompt_inputs(chunk, MaskSelection.SINGLE)]
    if entry_point == SEGMENT.name:
        return [bytes_input(IMAGE_BYTES.name, _picture()), *inputs]
    sides = [[model.image_size] * 2], [[SIDE] * 2]
    for tensor, size in zip((INPUT_SIZE, ORIGINAL_SIZE), sides, strict=True):
        inputs.append(infer_input(tensor.name, np.array(size, np.int32)))
    if entry_point == DECODE_WITH_MASK.name:
        shape = (1, 1, 1, model.low_res_size, model.low_res_size)
        inputs.append(infer_input(MASK_INPUT.name, np.zeros(shape, np.float32)))
    return inputs


def probe_outputs(entry_point: str) -> tuple[str, ...]:
    """Return the outputs of a probe for which every step of the entry point has to run."""
    if entry_point == ENCODE.name:
        return (IMAGE_EMBEDDINGS.name,)
    # Triton leaves a step out whose only tensor is an output that was not requested.
    stored = (IMAGE_EMBEDDINGS.name,) if entry_point == SEGMENT.name else ()
    return (SCORES.name, *stored)


@cache
def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(file, "PNG")
    return file.getvalue()
