"""Int8 quantisation of the image encoder for the CPU, with a scale for every row of activations.

A row is a token. With its own scale it is rounded by its own largest value, not by the largest of
the whole tensor, and its result does not depend on which images share the batch. Weights have a
scale for every output channel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cpcsam.errors import ExportError

__all__ = ["first_blocks", "quantize_encoder"]

LAYER: Final = re.compile(r"/blocks\.(\d+)/(attn/qkv|attn/proj|mlp/lin1|mlp/lin2)/MatMul$")
AFTER_GELU: Final = "mlp/lin2"

WEIGHT_LEVELS: Final = 63
"""Seven bits: without VNNI, products of u8 by s8 are added in pairs in 16 bits, which eight bits
overflow, so masks would depend on the CPU that serves them."""
SIGNED_LEVELS, SIGNED_ZERO = 127.0, 128
UNSIGNED_LEVELS: Final = 255.0
GELU_MINIMUM: Final = 0.17
"""GELU is nowhere below minus this, so that its outputs are quantised without a sign."""
SMALLEST: Final = 1e-9
"""Stands in for the largest value of a row of zeros."""


def first_blocks(encoder: onnx.ModelProto) -> tuple[int, ...]:
    """Return the blocks from which on an encoder can be quantised, the fastest form first.

    They are the first block, that after a quarter and that after half of the depth: an error passes
    through all later blocks, so late ones cost the masks least.

    Args:
        encoder: float32 graph.

    Raises:
        ExportError: the graph has no block with a linear layer.
    """
    layers = [LAYER.search(node.name) for node in encoder.graph.node]
    depth = 1 + max((int(layer[1]) for layer in layers if layer), default=-1)
    if not depth:
        raise _not_understood("no linear layer in a block")
    return tuple(dict.fromkeys((0, (depth + 2) // 4, (depth + 1) // 2)))


def quantize_encoder(encoder: onnx.ModelProto, first: int) -> onnx.ModelProto:
    """Quantise the linear layers of the encoder's blocks from one on.

    The other graphs are not quantised: an int8 decoder costs more mask quality and saves little
    time.

    Args:
        encoder: float32 graph, traced from a model smoothed by SmoothQuant; left unchanged.
        first: index of the first quantised block.

    Returns:
        The quantised graph.

    Raises:
        ExportError: a layer has no bias.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(encoder)
    graph = quantized.graph
    layers = {node.name: LAYER.search(node.name) for node in graph.node}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    biases = _biases(graph, weights)
    nodes: list[NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        layer = layers[node.name]
        if layer is None or int(layer[1]) < first:
            nodes.append(node)
            continue
        if node.output[0] not in biases:
            raise _not_understood(f"{node.name} without a bias")
        replaced.add(node.input[1])
        bias = weights[biases[node.output[0]]] if layer[2] == AFTER_GELU else None
        weight = numpy_helper.to_array(weights[node.input[1]])
        layer_nodes, constants = _quantized_layer(node, weight, bias)
        nodes += layer_nodes
        graph.initializer.extend(constants)
    kept = [tensor for tensor in graph.initializer if tensor.name not in replaced]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return quantized


def _biases(graph: onnx.GraphProto, weights: dict[str, TensorProto]) -> dict[str, str]:
    """Return the constant that is added to a tensor, by the tensor's name."""
    return {
        other: constant
        for node in graph.node
        if node.op_type == "Add"
        for constant, other in (node.input, reversed(node.input))
        if constant in weights
    }


def _quantized_layer(
    node: NodeProto, weight: NDArray[np.float32], bias: TensorProto | None
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants of a product x W, of x (..., K) and W (K, N).

    Args:
        node: the float32 product.
        weight: W.
        bias: added behind it if x are outputs of GELU; takes up what their shift adds.
    """
    scale = np.maximum(np.abs(weight).max(axis=0), SMALLEST).astype(np.float32) / WEIGHT_LEVELS
    levels = np.rint(weight / scale).astype(np.int8)
    unsigned = bias is not None
    largest, zero = (UNSIGNED_LEVELS, 0) if unsigned else (SIGNED_LEVELS, SIGNED_ZERO)
    if bias is not None:
        shift = GELU_MINIMUM * scale * levels.sum(axis=0, dtype=np.float32)
        shifted = numpy_helper.to_array(bias) - shift
        bias.CopyFrom(numpy_helper.from_array(shifted.astype(np.float32), bias.name))
    layer = _Layer(node.name)
    rows = node.input[0]
    if unsigned:
        rows = layer.add("Add", [rows, layer.constant("shift", np.float32(GELU_MINIMUM))])
    magnitudes = rows if unsigned else layer.add("Abs", [rows])
    highest = layer.add("ReduceMax", [magnitudes, layer.constant("axis", np.array([-1], np.int64))])
    highest = layer.add("Max", [highest, layer.constant("smallest", np.float32(SMALLEST))])
    inverse = layer.add("Div", [layer.constant("largest", np.float32(largest)), highest])
    steps = layer.add("Mul", [rows, inverse])
    zero_point = layer.constant("zero", np.uint8(zero))
    rounded = layer.add("QuantizeLinear", [steps, layer.constant("one", np.float32(1)), zero_point])
    product = layer.add("MatMulInteger", [rounded, layer.constant("weight", levels), zero_point])
    product = layer.add("Cast", [product], to=TensorProto.FLOAT)
    # Scaled by columns and then by rows: ONNX Runtime fuses a product of both scales wrongly.
    product = layer.add("Mul", [product, layer.constant("columns", scale / np.float32(largest))])
    layer.add("Mul", [product, highest], output=node.output[0])
    return layer.nodes, layer.constants


class _Layer:
    """Nodes and constants of one layer, named below it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"{self.name}/{name}"))
        return self.constants[-1].name

    def add(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        name = f"{self.name}/{kind}_{len(self.nodes)}"
        made = output or f"{name}_output"
        self.nodes.append(helper.make_node(kind, inputs, [made], name=name, **attributes))
        return made


def _not_understood(got: str) -> ExportError:
    return ExportError.of(
        "image encoder for int8",
        got=got,
        expected="blocks with the layers qkv, proj, lin1 and lin2",
        fix="export with --precision fp32, and report it",
    )
