"""Dynamic int8 for the CPU: weights in 8 bits, activations quantised as they come."""

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
"""What the quantiser adds to the name of a Gemm when it makes it a MatMul."""


def quantize_encoder(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Return the image encoder with the constant MatMul and Gemm of its last blocks in int8.

    The first half of the blocks stays in float32, since an error there passes through all that
    follow. The other graphs are not quantised: the decoder's masks suffer more than the
    encoder's, for little time.

    Args:
        encoder: the float32 graph, from tracing a smoothed model.
    """
    blocks = {node.name: BLOCK.search(node.name) for node in encoder.graph.node}
    found = {name: int(block[1]) for name, block in blocks.items() if block is not None}
    first = (max(found.values()) + 2) // 2
    kept = [name for name in blocks if found.get(name, 0) < first]
    # Tracing has inferred shapes and folded constants, which is what the metadata stands for.
    add_pre_process_metadata(encoder)
    with TemporaryDirectory() as folder, _without_chatter():
        file = Path(folder) / "encoder.onnx"
        quantize_dynamic(
            encoder,
            file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*kept, *(name + GEMM_SUFFIX for name in kept)],
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(file)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """The quantiser logs a line for every node on the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
