"""Small graphs whose encoder and decoder carry the version that they were made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from cpcsam.artifacts.manifest import publish
from cpcsam.contract import (
    EMBED_DIM,
    IMAGE_ENCODER,
    MASK_DECODER,
    MASK_DECODER_WITH_MASK,
    PATCH_SIZE,
    PROMPT_ENCODER,
    PROMPT_ENCODER_WITH_MASK,
    grid_size,
)
from tests.support import tiny_models


def publish_version_graphs(out: Path, version: int, image_size: int = 256) -> None:
    """Write graphs whose image encoder and mask decoder each carry a version, from 1 to 15.

    The predicted IoU of every mask tells both; see `versions_of`.
    """
    rng = np.random.default_rng(0)
    grid = grid_size(image_size)
    with publish(out, "onnx", config={"model_size": "tiny", "image_size": image_size}) as staging:
        for graph, nodes, constants in (
            (IMAGE_ENCODER, *_version_encoder(rng, version)),
            (PROMPT_ENCODER, *tiny_models._prompt_encoder(rng)),
            (MASK_DECODER, *_version_decoder(version, grid)),
            (PROMPT_ENCODER_WITH_MASK, *tiny_models._prompt_encoder_with_mask(rng, grid)),
            (MASK_DECODER_WITH_MASK, *_version_decoder(version, grid, with_mask=True)),
        ):
            onnx.save(
                tiny_models._model(graph, nodes, constants, image_size),
                staging / f"{graph.name}.onnx",
            )


def versions_of(score: float) -> tuple[int, int]:
    """Return the versions of decoder and encoder that a predicted IoU tells."""
    return divmod(round(score * 256), 16)


def _version_encoder(
    rng: np.random.Generator, version: int
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """A convolution a patch; channel 0 holds the version."""
    kernel = tiny_models._normal(rng, EMBED_DIM, 3, PATCH_SIZE, PATCH_SIZE) / (PATCH_SIZE * 255)
    kernel[0] = 0
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node(
            "Conv", ["pixels", "kernel", "bias"], ["image_embeddings"], strides=[PATCH_SIZE] * 2
        ),
    ]
    bias = np.zeros(EMBED_DIM, np.float32)
    bias[0] = version
    return nodes, {"kernel": kernel, "bias": bias}


def _version_decoder(
    version: int, grid: int, with_mask: bool = False
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """The usual masks; scores are the decoder's version / 16 + the embedding's / 256."""
    nodes, constants = tiny_models._decoder(grid, with_mask)
    nodes[-1:] = [
        helper.make_node("Gather", ["image_embeddings", "first"], ["stamps"], axis=1),
        helper.make_node("ReduceMean", ["stamps", "one_two"], ["stamp"]),
        helper.make_node("Mul", ["stamp", "small"], ["encoder_part"]),
        helper.make_node("Mul", ["means", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "decoder_part"], ["scores"]),
        helper.make_node("Add", ["scores", "encoder_part"], ["iou_predictions"]),
    ]
    return nodes, constants | {
        "first": np.array(0),
        "one_two": np.array([1, 2]),
        "small": np.float32(1 / 256).reshape(1),
        "nothing": np.float32(0).reshape(1),
        "decoder_part": np.float32(version / 16).reshape(1),
    }
