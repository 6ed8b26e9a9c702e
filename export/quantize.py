"""Dynamic int8 for the CPU: weights in 8 bits, activations quantised as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

__all__ = ["LEFT_OUT", "quantize_encoder"]

LEFT_OUT: Final = ("/mlp/lin1/",)
"""Linear layers of the encoder that stay in float32, by a part of their name.

Their input is the second LayerNorm's output; of all kinds they cost most accuracy. The other
graphs stay whole: the decoder's masks suffer more than the encoder's, for little time.
"""
GEMM_SUFFIX: Final = "_MatMul"
"""What the quantiser adds to the name of a Gemm when it makes it a MatMul."""


def quantize_encoder(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Return the image encoder with its constant MatMul and Gemm in int8, except `LEFT_OUT`.

    Args:
        encoder: the float32 graph, from tracing.
    """
    # Tracing has inferred shapes and folded constants, which is what the metadata stands for.
    add_pre_process_metadata(encoder)
    kept = [node.name for node in encoder.graph.node if any(one in node.name for one in LEFT_OUT)]
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
