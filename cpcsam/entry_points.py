"""Entry points of Triton besides the graphs, and the steps that they are made of.

They speak the original image's frame, one image a request; M is 1 or 3 by mask_selection. Symbols
and conventions are those of `cpcsam.contract`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from cpcsam.contract import (
    CALIBRATE,
    CALIBRATED_COORDS,
    GRAPHS,
    IMAGE,
    IMAGE_EMBEDDINGS,
    IMAGE_ENCODER,
    INPUT_SIZE,
    IOU_PREDICTIONS,
    LOW_RES_MASKS,
    MASK_INPUT,
    POINT_COORDS,
    POINT_LABELS,
    STABILITY_OFFSET,
    GraphSpec,
    TensorSpec,
    calibrating,
)

__all__ = [
    "ALL_MASKS",
    "AREAS",
    "BBOXES",
    "CALIBRATED_POINT_COORDS",
    "CHOSEN_CALIBRATE",
    "CLIP",
    "CLIP_CROPS",
    "CLIP_EMBEDDINGS",
    "CLIP_INFO",
    "CLIP_TEXTS",
    "DECODE",
    "DECODER",
    "DECODE_WITH_MASK",
    "EMBEDDING_STORE",
    "ENCODE",
    "ENSEMBLES",
    "IMAGE_BYTES",
    "IMAGE_KEY",
    "MASKS_RLE",
    "MASK_SELECTION",
    "MASK_THRESHOLDS",
    "ORIGINAL_SIZE",
    "POSTPROCESS",
    "PREPROCESS",
    "SCALED_POINT_COORDS",
    "SCALE_PROMPTS",
    "SCORES",
    "SEGMENT",
    "SELECTED_LOW_RES_MASKS",
    "STABILITY",
    "STEPS",
    "STEP_TIMES",
    "STORED_EMBEDDINGS",
    "form_of",
    "is_timed",
    "times_output",
]

IMAGE_BYTES: Final = TensorSpec("image_bytes", "object", ("B", 1))
ORIGINAL_SIZE: Final = TensorSpec("original_size", "int32", ("B", 2))
MASK_SELECTION: Final = TensorSpec("mask_selection", "int32", ("B", 1))
SCORES: Final = TensorSpec("scores", "float32", ("B", "P", "M"))
"""Predicted IoU of each selected mask."""
MASKS_RLE: Final = TensorSpec("masks_rle", "object", ("B", "P", "M"))
"""COCO compressed run lengths (the `counts` string) of each mask, size = original_size."""
BBOXES: Final = TensorSpec("bboxes", "int32", ("B", "P", "M", 4))
"""Bounding box of each mask, XYXY pixels of the image, far ends exclusive; zeros if it is empty."""
AREAS: Final = TensorSpec("areas", "int32", SCORES.dims)
"""Pixels of each mask."""
SELECTED_LOW_RES_MASKS: Final = TensorSpec(
    "selected_low_res_masks", "float32", ("B", "P", "M", "4G", "4G")
)

STABILITY: Final = TensorSpec("stability", "float32", SCORES.dims)
"""IoU of each selected mask at the thresholds ±STABILITY_OFFSET, 0 to 1."""

IMAGE_KEY: Final = TensorSpec("image_key", "object", ("B", 1))
"""Name under which an embedding is kept: later calls give it in place of the embedding."""
MASK_THRESHOLDS: Final = TensorSpec("mask_thresholds", "float64", ("B", 3))
"""What a mask's predicted IoU has to exceed, its least stability, and the offset of the stability;
other masks are empty."""
ALL_MASKS: Final = (-math.inf, 0.0, STABILITY_OFFSET)
"""The `mask_thresholds` of a call without any."""

ENCODE: Final = GraphSpec(
    "encode", (IMAGE_BYTES,), (IMAGE_EMBEDDINGS, INPUT_SIZE, ORIGINAL_SIZE), 1
)
PROMPT_INPUTS: Final = (POINT_COORDS, POINT_LABELS, MASK_SELECTION, MASK_THRESHOLDS)
DECODE: Final = GraphSpec(
    "decode",
    (IMAGE_KEY, IMAGE_EMBEDDINGS, INPUT_SIZE, ORIGINAL_SIZE, *PROMPT_INPUTS),
    (MASKS_RLE, BBOXES, AREAS, SCORES, STABILITY, SELECTED_LOW_RES_MASKS),
    1,
    optional=frozenset({IMAGE_KEY.name, IMAGE_EMBEDDINGS.name, MASK_THRESHOLDS.name}),
)
DECODE_WITH_MASK: Final = GraphSpec(
    "decode_with_mask", (*DECODE.inputs, MASK_INPUT), DECODE.outputs, 1, optional=DECODE.optional
)
"""`decode` for prompts that all have a mask; the mask lies in the encoder's frame."""
SEGMENT: Final = GraphSpec(
    "segment",
    (IMAGE_BYTES, IMAGE_KEY, *PROMPT_INPUTS),
    (*DECODE.outputs, *ENCODE.outputs),
    1,
    optional=frozenset({IMAGE_KEY.name, MASK_THRESHOLDS.name}),
)
ENSEMBLES: Final = (ENCODE, DECODE, DECODE_WITH_MASK, SEGMENT)

# What the ensembles run around the graphs. Tensors keep their names from step to step; only the
# prompts change frame, so they change name.
SCALED_POINT_COORDS: Final = TensorSpec("scaled_point_coords", "float32", POINT_COORDS.dims)
"""`point_coords` in the encoder's frame: what the ensembles feed `prompt_encoder`."""

PREPROCESS: Final = GraphSpec(
    "preprocess", ENCODE.inputs, (IMAGE, INPUT_SIZE, ORIGINAL_SIZE), ENCODE.max_batch
)
SCALE_PROMPTS: Final = GraphSpec(
    "scale_prompts", (POINT_COORDS, ORIGINAL_SIZE), (SCALED_POINT_COORDS,), DECODE.max_batch
)
POSTPROCESS: Final = GraphSpec(
    "postprocess",
    (
        LOW_RES_MASKS,
        IOU_PREDICTIONS,
        INPUT_SIZE,
        ORIGINAL_SIZE,
        POINT_LABELS,
        MASK_SELECTION,
        MASK_THRESHOLDS,
    ),
    DECODE.outputs,
    DECODE.max_batch,
    optional=frozenset({MASK_THRESHOLDS.name}),
)
STORED_EMBEDDINGS: Final = TensorSpec(
    "stored_embeddings", IMAGE_EMBEDDINGS.dtype, IMAGE_EMBEDDINGS.dims
)
EMBEDDING_STORE: Final = GraphSpec(
    "embedding_store",
    (IMAGE_KEY, IMAGE_EMBEDDINGS),
    (STORED_EMBEDDINGS,),
    1,
    optional=frozenset({IMAGE_KEY.name, IMAGE_EMBEDDINGS.name}),
)
"""Keeps `image_embeddings` under the key, or returns what it keeps. In `segment` it also hands them
out: Triton drops a step whose tensor is an output of the ensemble that was not requested, even if
later steps need it."""
DECODER: Final = GraphSpec(
    "decoder",
    DECODE_WITH_MASK.inputs,
    (*DECODE.outputs, STORED_EMBEDDINGS),
    1,
    optional=DECODE.optional | {MASK_INPUT.name},
)
"""All steps of a decode and `embedding_store` in one process, for ONNX Runtime."""
STEPS: Final = (PREPROCESS, EMBEDDING_STORE, SCALE_PROMPTS, POSTPROCESS, DECODER)

STEP_TIMES: Final = TensorSpec("step_times", "float64", ("B", "T"))
"""Start and end of a Python step, and between them, in `decoder`, the end of the mask decoder:
seconds of a monotonic clock that the processes of a machine share. Each request of a batch has its
own."""

CALIBRATED_POINT_COORDS: Final = TensorSpec(
    "calibrated_point_coords", POINT_COORDS.dtype, POINT_COORDS.dims
)
"""`calibrated_coords` in the image's frame; what was not moved is as in `point_coords`."""
CHOSEN_CALIBRATE: Final = TensorSpec("chosen_calibrate", CALIBRATE.dtype, CALIBRATE.dims)
"""`calibrate`, 1 where a call has left it out."""

CLIP_TEXTS: Final = TensorSpec("clip_texts", "object", ("B", "N"))
CLIP_CROPS: Final = TensorSpec("clip_crops", "uint8", ("B", "N", "C", "C", 3))
"""Square crops of an image, resized to the side C of the image tower, RGB."""
CLIP_EMBEDDINGS: Final = TensorSpec("clip_embeddings", "float32", ("B", "N", "D"))
"""Of unit length D."""
CLIP: Final = GraphSpec(
    "clip",
    (CLIP_TEXTS, CLIP_CROPS),
    (CLIP_EMBEDDINGS,),
    1,
    optional=frozenset({CLIP_TEXTS.name, CLIP_CROPS.name}),
)
"""CLIP's towers; only in repositories that were published with some. One input a call."""
CLIP_INFO: Final = "clip"
"""Parameter of the model: `ClipInfo` as JSON."""


def is_timed(step: GraphSpec, target: str) -> bool:
    """Return whether a step has the further output `step_times`; see `times_output`.

    Args:
        step: of `GRAPHS` or `STEPS`.
        target: `cpu` or `cuda`, where the image encoder runs in Python, or `gpu`.
    """
    timed = (PREPROCESS, EMBEDDING_STORE, POSTPROCESS, DECODER)
    return step in timed or (step is IMAGE_ENCODER and target != "gpu")


def times_output(step: str) -> TensorSpec:
    """Return the output of an ensemble that is the `step_times` of a step."""
    return replace(STEP_TIMES, name=f"{step}_times")


def form_of(spec: GraphSpec, calibrates: bool) -> GraphSpec:
    """Return a graph, entry point or step in the form for models that calibrate prompts, or not.

    Args:
        spec: of `GRAPHS`, `ENSEMBLES` or `STEPS`.
        calibrates: whether the model's graphs are those of `graphs_of(True)`.
    """
    if not calibrates:
        return spec
    if spec in GRAPHS:
        return calibrating(spec)
    inputs, outputs, optional = spec.inputs, spec.outputs, spec.optional
    if spec in (SCALE_PROMPTS, DECODE, DECODE_WITH_MASK, SEGMENT, DECODER):
        inputs, optional = (*inputs, CALIBRATE), optional | {CALIBRATE.name}
    if spec == SCALE_PROMPTS:
        outputs = (*outputs, CHOSEN_CALIBRATE)
    if spec == POSTPROCESS:
        inputs = (*inputs, POINT_COORDS, CALIBRATED_COORDS)
    if spec in (POSTPROCESS, DECODE, DECODE_WITH_MASK, SEGMENT, DECODER):
        outputs = (*outputs, CALIBRATED_POINT_COORDS)
    return replace(spec, inputs=inputs, outputs=outputs, optional=optional)
