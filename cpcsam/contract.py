"""Tensor contract: names, dtypes, shapes and limits of every graph, defined once.

ONNX input and output names, Triton's `config.pbtxt` and the client are derived from this module;
a conformance test fails when any of them drifts.

Symbols: B images, P prompts an image, N points a prompt, S = image_size, G = S / 16.
Sizes are (H, W); points are (X, Y) in pixels; boxes are XYXY.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

__all__ = [
    "CALIBRATE",
    "CALIBRATED_COORDS",
    "CALIBRATES",
    "EMBED_DIM",
    "GRAPHS",
    "IMAGE_SIZES",
    "LOW_RES_FACTOR",
    "MASK_DECODER",
    "MASK_DECODER_WITH_MASK",
    "MAX_IMAGES_TIMES_PROMPTS",
    "MODEL_SIZES",
    "MULTIMASK",
    "NUM_MASKS",
    "PATCH_SIZE",
    "MAX_PIXELS",
    "POINT_BUCKETS",
    "PROMPT_BUCKETS",
    "PROMPT_ENCODER",
    "PROMPT_ENCODER_WITH_MASK",
    "IMAGE_ENCODER",
    "SINGLE_MASK",
    "GraphSpec",
    "MaskSelection",
    "PointLabel",
    "TensorSpec",
    "bucket",
    "calibrates_of",
    "calibrating",
    "graphs_of",
    "grid_size",
]

PATCH_SIZE: Final = 16
EMBED_DIM: Final = 256
NUM_MASKS: Final = 4
LOW_RES_FACTOR: Final = 4
IMAGE_SIZES: Final = (256, 512, 1024)
MODEL_SIZES: Final = ("vit_t", "vit_b", "vit_l", "vit_h")
PIXEL_MEAN: Final = (123.675, 116.28, 103.53)
"""Per channel (R, G, B), in grey levels 0-255; `Sam.pixel_mean` of the paper's code."""
PIXEL_STD: Final = (58.395, 57.12, 57.375)
"""Per channel (R, G, B), in grey levels 0-255; `Sam.pixel_std`."""
MASK_THRESHOLD: Final = 0.0
"""A logit above this is foreground; `Sam.mask_threshold`."""
STABILITY_OFFSET: Final = 1.0
"""Offset of the threshold, up and down, for the stability score, as in SAM."""

SINGLE_MASK: Final = slice(0, 1)
"""Index of the mask for unambiguous prompts among the decoder's four."""
MULTIMASK: Final = slice(1, None)
"""Index of the masks for ambiguous prompts."""

PROMPT_BUCKETS: Final = (1, 4, 16)
"""Prompts of one decoder request are padded to one of these; more are split over requests."""
POINT_BUCKETS: Final = (1, 2, 4, 8, 16)
"""Points of a prompt (a box counts as two) are padded to one of these."""
MAX_IMAGES_TIMES_PROMPTS: Final = 64
ENCODER_MAX_BATCH: Final = 8
DECODER_MAX_BATCH: Final = MAX_IMAGES_TIMES_PROMPTS // PROMPT_BUCKETS[-1]
"""Triton has a single batch limit a model: that of the largest bucket."""
MAX_PIXELS: Final = 8192 * 8192
"""Largest image that is decoded, in pixels; checked in its header, before decoding."""


class PointLabel(IntEnum):
    """Value of a slot of `point_labels`."""

    EMPTY = -1
    BACKGROUND = 0
    FOREGROUND = 1
    BOX_TOP_LEFT = 2
    BOX_BOTTOM_RIGHT = 3


class MaskSelection(IntEnum):
    """Selection among the decoder's four masks of a prompt."""

    SINGLE = 0
    """Mask 0, trained for unambiguous prompts: one mask a prompt (M = 1)."""
    BEST = 1
    """Of masks 1-3 the one with the highest predicted IoU (M = 1)."""
    ALL = 2
    """Masks 1-3, for ambiguous prompts (M = 3)."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: the same in every graph, configuration and client.
        dtype: numpy's name of the element type. It is the same whatever precision a graph computes
            in, so graphs of different precisions stand in for each other.
        dims: symbols or numbers, batch first; `"S"`, `"G"` and `"4G"` follow from image_size,
            `"B"`, `"P"`, `"N"`, `"T"` and, of CLIP, `"C"` and `"D"` are dynamic.
    """

    name: str
    dtype: str
    dims: tuple[str | int, ...]

    def shape(self, image_size: int) -> tuple[int, ...]:
        """Return the shape for one image_size, with -1 for every dynamic dimension."""
        grid = grid_size(image_size)
        sizes = {"S": image_size, "G": grid, "4G": LOW_RES_FACTOR * grid, "B": -1, "P": -1}
        sizes |= {"N": -1, "N+1": -1, "M": -1, "T": -1, "C": -1, "D": -1}
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.dims)


@dataclass(frozen=True)
class GraphSpec:
    """One graph or model of Triton.

    Attributes:
        name: the graph's, also Triton's model name.
        inputs: in order.
        outputs: in order.
        max_batch: largest batch.
        optional: names of inputs that a call may leave out.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    optional: frozenset[str] = frozenset()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(tensor.name for tensor in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(tensor.name for tensor in self.outputs)


IMAGE: Final = TensorSpec("image", "uint8", ("B", 3, "S", "S"))
INPUT_SIZE: Final = TensorSpec("input_size", "int32", ("B", 2))
IMAGE_EMBEDDINGS: Final = TensorSpec("image_embeddings", "float32", ("B", EMBED_DIM, "G", "G"))
POINT_COORDS: Final = TensorSpec("point_coords", "float32", ("B", "P", "N", 2))
POINT_LABELS: Final = TensorSpec("point_labels", "int32", ("B", "P", "N"))
MASK_INPUT: Final = TensorSpec("mask_input", "float32", ("B", "P", 1, "4G", "4G"))
SPARSE_EMBEDDINGS: Final = TensorSpec("sparse_embeddings", "float32", ("B", "P", "N+1", EMBED_DIM))
TOKEN_MASK: Final = TensorSpec("token_mask", "float32", ("B", "P", "N+1"))
DENSE_EMBEDDINGS: Final = TensorSpec("dense_embeddings", "float32", ("B", "P", EMBED_DIM, "G", "G"))
LOW_RES_MASKS: Final = TensorSpec("low_res_masks", "float32", ("B", "P", NUM_MASKS, "4G", "4G"))
IOU_PREDICTIONS: Final = TensorSpec("iou_predictions", "float32", ("B", "P", NUM_MASKS))

CALIBRATE: Final = TensorSpec("calibrate", "float32", ("B", 1))
"""1 to calibrate the prompts of an image, 0 to take them as they are given."""
CALIBRATED_COORDS: Final = TensorSpec("calibrated_coords", POINT_COORDS.dtype, POINT_COORDS.dims)
"""`point_coords` as the model took them, 0 in empty slots."""
CALIBRATES: Final = "calibrates"
"""Entry of manifests and parameter of Triton's models; see `calibrates_of`."""

IMAGE_ENCODER: Final = GraphSpec(
    "image_encoder", (IMAGE, INPUT_SIZE), (IMAGE_EMBEDDINGS,), ENCODER_MAX_BATCH
)
PROMPT_ENCODER: Final = GraphSpec(
    "prompt_encoder",
    (IMAGE_EMBEDDINGS, POINT_COORDS, POINT_LABELS),
    (SPARSE_EMBEDDINGS, TOKEN_MASK),
    DECODER_MAX_BATCH,
)
PROMPT_ENCODER_WITH_MASK: Final = GraphSpec(
    "prompt_encoder_with_mask",
    (*PROMPT_ENCODER.inputs, MASK_INPUT),
    (*PROMPT_ENCODER.outputs, DENSE_EMBEDDINGS),
    DECODER_MAX_BATCH,
)
MASK_DECODER: Final = GraphSpec(
    "mask_decoder",
    (IMAGE_EMBEDDINGS, SPARSE_EMBEDDINGS, TOKEN_MASK),
    (LOW_RES_MASKS, IOU_PREDICTIONS),
    DECODER_MAX_BATCH,
)
MASK_DECODER_WITH_MASK: Final = GraphSpec(
    "mask_decoder_with_mask",
    (*MASK_DECODER.inputs, DENSE_EMBEDDINGS),
    MASK_DECODER.outputs,
    DECODER_MAX_BATCH,
)
GRAPHS: Final = (
    IMAGE_ENCODER,
    PROMPT_ENCODER,
    MASK_DECODER,
    PROMPT_ENCODER_WITH_MASK,
    MASK_DECODER_WITH_MASK,
)


def calibrating(graph: GraphSpec) -> GraphSpec:
    """Return the form of a graph of `GRAPHS` in a model that calibrates prompts."""
    if graph is IMAGE_ENCODER:
        return graph
    inputs, outputs = (*graph.inputs, CALIBRATE), graph.outputs
    if POINT_COORDS in inputs:
        outputs = (*outputs, CALIBRATED_COORDS)
    return replace(graph, inputs=inputs, outputs=outputs)


CALIBRATING_GRAPHS: Final = tuple(calibrating(graph) for graph in GRAPHS)


def graphs_of(calibrates: bool) -> tuple[GraphSpec, ...]:
    """Return the graphs, of a model that calibrates prompts or of one that does not."""
    return CALIBRATING_GRAPHS if calibrates else GRAPHS


def calibrates_of(config: Mapping[str, Any]) -> bool | None:
    """Return whether the graphs of an artifact are of the form for models that calibrate prompts.

    Args:
        config: of the manifest.

    Returns:
        True if they are, False if their model calibrates nothing, and None if it may calibrate
        prompts, but its graphs were exported without a switch.
    """
    if config.get(CALIBRATES):
        return True
    return False if "capl" in config and config["capl"] is None else None


def grid_size(image_size: int) -> int:
    """Return the side of the embedding grid, G = S / 16."""
    return image_size // PATCH_SIZE


def bucket(count: int, buckets: tuple[int, ...]) -> int:
    """Return the smallest bucket that holds `count`; the largest if none does (callers split)."""
    return next((size for size in buckets if size >= count), buckets[-1])
