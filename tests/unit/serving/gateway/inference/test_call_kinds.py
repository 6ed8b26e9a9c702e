"""Kinds of calls to Triton."""

from __future__ import annotations

import numpy as np

from cpcsam.contract import MaskSelection
from cpcsam.entry_points import DECODE, ENCODE, IMAGE_BYTES, MASKS_RLE, SEGMENT
from serving.gateway.inference.call_kinds import EVERYTHING, SEARCH, decodes, kind_of
from serving.gateway.inference.prompt_batches import chunk_tensors
from serving.gateway.inference.triton_requests import bytes_input, prompt_inputs
from serving.gateway.scheduling.call_times import CallKind


def test_kind_of_a_call_tells_use_and_prompts() -> None:
    (chunk,) = chunk_tensors(np.zeros((3, 1, 2), np.float32), np.ones((3, 1), np.int32))
    prompts = prompt_inputs(chunk, MaskSelection.BEST)
    thresholds = prompt_inputs(chunk, MaskSelection.ALL, (0.5, 0.5, 1.0))
    masks = (MASKS_RLE.name,)
    assert kind_of(DECODE.name, prompts, masks) == CallKind(DECODE.name, 4)
    assert kind_of(SEGMENT.name, prompts, masks) == CallKind(SEGMENT.name, 4)
    assert kind_of(DECODE.name, thresholds, masks) == CallKind(EVERYTHING, 4)
    assert kind_of(DECODE.name, prompts, ("scores",)) == CallKind(SEARCH, 4)
    image = [bytes_input(IMAGE_BYTES.name, b"file")]
    assert kind_of(ENCODE.name, image, ()) == CallKind(ENCODE.name)


def test_decodes_are_those_of_the_chunks() -> None:
    assert decodes("x", 0) == {}
    assert decodes("x", 1) == {CallKind("x", 1): 1}
    assert decodes("x", 35) == {CallKind("x", 16): 2, CallKind("x", 4): 1}
    assert decodes("x", 26) == {CallKind("x", 16): 2}
