"""Small ONNX graphs to the tensor contract whose outputs depend on all of their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy import ndimage

from cpcsam.artifacts.manifest import publish
from cpcsam.contract import (
    EMBED_DIM,
    IMAGE_ENCODER,
    LOW_RES_FACTOR,
    MASK_DECODER,
    MASK_DECODER_WITH_MASK,
    NUM_MASKS,
    PATCH_SIZE,
    PROMPT_ENCODER,
    PROMPT_ENCODER_WITH_MASK,
    GraphSpec,
    TensorSpec,
    grid_size,
)

LAYERS = 12
DTYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}


def publish_tiny_graphs(out: Path, image_size: int = 256, seed: int = 0) -> None:
    """Write an artifact of kind `onnx` with the graphs that the repository serves."""
    rng = np.random.default_rng(seed)
    grid = grid_size(image_size)
    with publish(out, "onnx", config={"model_size": "tiny", "image_size": image_size}) as staging:
        for graph, nodes, constants in (
            (IMAGE_ENCODER, *_encoder(rng)),
            (PROMPT_ENCODER, *_prompt_encoder(rng)),
            (MASK_DECODER, *_decoder(grid)),
            (PROMPT_ENCODER_WITH_MASK, *_prompt_encoder_with_mask(rng, grid)),
            (MASK_DECODER_WITH_MASK, *_decoder(grid, with_mask=True)),
        ):
            onnx.save(_model(graph, nodes, constants, image_size), staging / f"{graph.name}.onnx")


def _model(
    graph: GraphSpec,
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
    image_size: int,
) -> onnx.ModelProto:
    body = helper.make_graph(
        nodes,
        graph.name,
        [_value(tensor, image_size) for tensor in graph.inputs],
        [_value(tensor, image_size) for tensor in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _value(tensor: TensorSpec, image_size: int) -> onnx.ValueInfoProto:
    sizes = tensor.shape(image_size)
    dims = [name if size < 0 else size for name, size in zip(tensor.dims, sizes, strict=True)]
    return helper.make_tensor_value_info(tensor.name, DTYPES[tensor.dtype], dims)


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def _encoder(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """One convolution a patch, then as much work as vit_t, plus the image's share of the frame."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node(
            "Conv", ["pixels", "kernel"], ["layer_0"], strides=[PATCH_SIZE, PATCH_SIZE]
        ),
    ]
    for layer in range(LAYERS):
        names = (f"layer_{layer}", f"mixed_{layer}", f"layer_{layer + 1}")
        nodes.append(helper.make_node("Conv", [names[0], "mixing"], [names[1]], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Tanh", [names[1]], [names[2]]))
    nodes += [
        helper.make_node("Cast", ["input_size"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["size", "last"], ["mean_size"]),
        helper.make_node("Mul", ["mean_size", "thousandth"], ["fill"]),
        helper.make_node("Unsqueeze", ["fill", "two_three"], ["fill_map"]),
        helper.make_node("Add", [f"layer_{LAYERS}", "fill_map"], ["image_embeddings"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "kernel": _normal(rng, EMBED_DIM, 3, PATCH_SIZE, PATCH_SIZE) / (PATCH_SIZE * 255),
        "mixing": _normal(rng, EMBED_DIM, EMBED_DIM, 3, 3) / np.float32(np.sqrt(EMBED_DIM * 9)),
        "last": np.array([-1]),
        "thousandth": np.float32(1e-3).reshape(1),
        "two_three": np.array([2, 3]),
    }
    return nodes, constants


def _prompt_encoder(
    rng: np.random.Generator,
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """Sines of the coordinates plus label plus the image's mean; the extra token is their sum."""
    nodes = [
        helper.make_node("MatMul", ["point_coords", "frequencies"], ["phases"]),
        helper.make_node("Sin", ["phases"], ["waves"]),
        helper.make_node("Cast", ["point_labels"], ["labels"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["labels", "last"], ["label_column"]),
        helper.make_node("Mul", ["label_column", "direction"], ["label_embedding"]),
        helper.make_node("Add", ["waves", "label_embedding"], ["points"]),
        helper.make_node("ReduceMean", ["image_embeddings", "two_three"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one_two"], ["mean_token"]),
        helper.make_node("Add", ["points", "mean_token"], ["tokens"]),
        helper.make_node("GreaterOrEqual", ["labels", "zero"], ["valid"]),
        helper.make_node("Cast", ["valid"], ["valid_slots"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["valid_slots", "last"], ["any_slot"]),
        helper.make_node("Concat", ["valid_slots", "any_slot"], ["token_mask"], axis=2),
        helper.make_node("ReduceSum", ["tokens", "two"], ["extra"]),
        helper.make_node("Concat", ["tokens", "extra"], ["sparse_embeddings"], axis=2),
    ]
    constants: dict[str, NDArray[Any]] = {
        "frequencies": _normal(rng, 2, EMBED_DIM) / 50,
        "direction": _normal(rng, EMBED_DIM),
        "zero": np.float32(0).reshape(1),
        "last": np.array([-1]),
        "two": np.array([2]),
        "one_two": np.array([1, 2]),
        "two_three": np.array([2, 3]),
    }
    return nodes, constants


def _prompt_encoder_with_mask(
    rng: np.random.Generator, grid: int
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """The same, and the mask's mean in each cell along one direction."""
    nodes, constants = _prompt_encoder(rng)
    nodes += [
        helper.make_node("Reshape", ["mask_input", "cells"], ["split"]),
        helper.make_node("ReduceMean", ["split", "within_cells"], ["means"], keepdims=0),
        helper.make_node("Unsqueeze", ["means", "two"], ["mean_map"]),
        helper.make_node("Unsqueeze", ["direction", "one_two"], ["direction_map"]),
        helper.make_node("Mul", ["mean_map", "direction_map"], ["dense_embeddings"]),
    ]
    constants |= {
        "cells": np.array([0, 0, grid, LOW_RES_FACTOR, grid, LOW_RES_FACTOR]),
        "within_cells": np.array([3, 5]),
    }
    return nodes, constants


def _decoder(
    grid: int, with_mask: bool = False
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """The valid tokens' sum against the embeddings, centred, in finer cells, at four scales.

    With a mask, the size of its dense embeddings is added.
    """
    nodes = [
        helper.make_node("Unsqueeze", ["token_mask", "last"], ["weights"]),
        helper.make_node("Mul", ["sparse_embeddings", "weights"], ["valid_tokens"]),
        helper.make_node("ReduceSum", ["valid_tokens", "two"], ["pooled"], keepdims=0),
        helper.make_node("Reshape", ["image_embeddings", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pooled", "pixels"], ["correlation"]),
        helper.make_node("ReduceMean", ["correlation", "last"], ["mean"]),
        helper.make_node("Sub", ["correlation", "mean"], ["centred"]),
        helper.make_node("Reshape", ["centred", "square"], ["prompted"]),
        *(
            [
                helper.make_node("ReduceL2", ["dense_embeddings", "two"], ["given"], keepdims=0),
                helper.make_node("Add", ["prompted", "given"], ["coarse"]),
            ]
            if with_mask
            else [helper.make_node("Identity", ["prompted"], ["coarse"])]
        ),
        helper.make_node("MatMul", ["tall", "coarse"], ["rows"]),
        helper.make_node("MatMul", ["rows", "wide"], ["fine"]),
        helper.make_node("Unsqueeze", ["fine", "two"], ["fine_masks"]),
        helper.make_node("Mul", ["fine_masks", "scales"], ["low_res_masks"]),
        helper.make_node("Abs", ["low_res_masks"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes", "three_four"], ["means"], keepdims=0),
        helper.make_node("Sigmoid", ["means"], ["iou_predictions"]),
    ]
    repeat = np.repeat(np.eye(grid, dtype=np.float32), LOW_RES_FACTOR, axis=0)
    constants: dict[str, NDArray[Any]] = {
        "last": np.array([-1]),
        "two": np.array([2]),
        "three_four": np.array([3, 4]),
        "flat": np.array([0, EMBED_DIM, grid * grid]),
        "square": np.array([0, 0, grid, grid]),
        "tall": repeat,
        "wide": np.ascontiguousarray(repeat.T),
        "scales": np.array([1e-3, 2e-3, -1e-3, 3e-3], np.float32).reshape(NUM_MASKS, 1, 1),
    }
    return nodes, constants


BRIGHT = 110


class BrightnessModel:
    """A model of the contract whose entities are bright: an exact answer to what tiles show.

    A cell's embedding holds its pixels, four by four; a click's mask is the bright region that
    it is in.
    """

    image_size = 256

    def encode(self, image: np.ndarray, input_size: np.ndarray) -> np.ndarray:
        fine = image.mean(1).reshape(len(image), 16, 4, 4, 16, 4, 4).mean((3, 6))
        cells = fine.transpose(0, 2, 4, 1, 3).reshape(len(image), 16, 16, 16)
        embeddings = np.zeros((len(image), EMBED_DIM, 16, 16), np.float32)
        embeddings[:, :16] = cells / 255
        embeddings[:, 16] = 1
        return embeddings

    def decode(
        self,
        image_embeddings: np.ndarray,
        point_coords: np.ndarray,
        point_labels: np.ndarray,
        mask_input: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        fine = image_embeddings[0, :16].reshape(4, 4, 16, 16).transpose(2, 0, 3, 1).reshape(64, 64)
        regions = _regions(fine > BRIGHT / 255)
        clicks = np.clip(point_coords[0, :, 0] // 4, 0, 63).astype(int)
        masks = np.stack([_region_at(regions, x, y) for x, y in clicks])
        logits = np.where(masks, 5.0, -5.0).astype(np.float32)
        shape = (1, len(clicks), NUM_MASKS)
        return np.repeat(logits[None, :, None], NUM_MASKS, 2), np.full(shape, 0.9, np.float32)


def _regions(mask: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.label(mask)[0])


def _region_at(regions: np.ndarray, x: int, y: int) -> np.ndarray:
    """The region under a click, or the nearest one: cells are coarser than regions."""
    rows, columns = np.nonzero(regions)
    if not len(rows):
        return np.zeros(regions.shape, bool)
    nearest = np.argmin((rows - y) ** 2 + (columns - x) ** 2)
    return np.asarray(regions == regions[rows[nearest], columns[nearest]])
