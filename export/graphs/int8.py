"""Dynamic int8 quantisation of the image encoder for the CPU.

Weights are stored in int8; activations are quantised at run time, each tensor by its own range.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

__all__ = ["quantize_encoder"]

BLOCK: Final = re.compile(r"/blocks\.(\d+)/")
GEMM_SUFFIX: Final = "_MatMul"
"""Suffix of the MatMul into which the quantiser converts a Gemm."""


def quantize_encoder(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise the weighted MatMul and Gemm nodes in the second half of the encoder's blocks.

    The first half stays in float32, since its errors pass through all later blocks. The other
    graphs are not quantised: an int8 decoder costs more mask quality and saves little time.

    Args:
        encoder: float32 graph, traced from a model smoothed by SmoothQuant; gets metadata.

    Returns:
        The quantised graph.
    """
    blocks = {node.name: BLOCK.search(node.name) for node in encoder.graph.node}
    block_of = {name: int(block[1]) for name, block in blocks.items() if block is not None}
    first = (max(block_of.values()) + 2) // 2
    kept = [name for name in blocks if block_of.get(name, 0) < first]
    # The metadata promises inferred shapes and folded constants; tracing has done both.
    add_pre_process_metadata(encoder)
    with TemporaryDirectory() as folder, _quiet_logging():
        file = Path(folder) / "encoder.onnx"
        quantize_dynamic(
            encoder,
            file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # Seven bits: without VNNI, products of u8 by s8 are added in pairs in 16 bits, which
            # eight bits overflow, so masks would depend on the CPU that serves them.
            reduce_range=True,
            nodes_to_exclude=[*kept, *(name + GEMM_SUFFIX for name in kept)],
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(file)


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Silence the quantiser, which logs a line for every node on the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
