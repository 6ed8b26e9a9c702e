"""Export a graph of the contract from torch to an .onnx file by tracing."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from cpcsam.artifacts.manifest import tool_versions
from cpcsam.contract import GraphSpec, TensorSpec
from cpcsam.errors import ExportError
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule

__all__ = ["OPSET", "label", "onnx_from_torch", "save", "shape_only_kernels"]

OPSET: Final = 18
INLINE_BYTES: Final = 1_500_000_000
"""Limit of weights inside the .onnx file, beyond which they go to `FILE.data`: protobuf ends at
2 GB."""
ELEMENT_TYPES: Final = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}
TRACED_DIMS: Final = {"B": 2, "P": 3, "N": 4, "N+1": 5}
"""Sizes of the dynamic dimensions while tracing; 1 would hide a missing expansion."""


def onnx_from_torch(
    model: CpcSam, graph: GraphSpec, file: Path, properties: Mapping[str, Any]
) -> None:
    """Export a graph with torch's tracing exporter, and check it with ONNX's checker.

    torch's newer exporter (`dynamo=True`) takes 10 to 20 times as long for the same values and the
    same speed. A dynamic dimension frozen by tracing is found by `export.accuracy.parity_grid`.

    Args:
        model: usually the result of `make_traceable` or `to_fp16`.
        graph: specification of the graph.
        file: the .onnx file to write; weights beyond `INLINE_BYTES` go to `FILE.data`.
        properties: metadata of the file.

    Raises:
        ExportError: torch cannot export it, or ONNX's checker refuses it.
    """
    size = model.image_size
    inputs = tuple(_traced_input(tensor, size) for tensor in graph.inputs)
    dynamic_axes = {
        tensor.name: {axis: dim for axis, dim in enumerate(tensor.dims) if dim in TRACED_DIMS}
        for tensor in (*graph.inputs, *graph.outputs)
    }
    try:
        with (
            TemporaryDirectory() as folder,
            warnings.catch_warnings(),
            torch.no_grad(),
            shape_only_kernels(),
        ):
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = Path(folder) / file.name
            torch.onnx.export(
                GraphModule(model, graph).eval(),
                inputs,
                traced,
                input_names=graph.input_names,
                output_names=graph.output_names,
                opset_version=OPSET,
                dynamic_axes=dynamic_axes,
                dynamo=False,
            )
            exported = onnx.load(traced)
        # Loading the file pulled external weights in, so that `save` decides where they go.
        label(exported, graph, size, properties)
        save(exported, file)
        onnx.checker.check_model(str(file), full_check=True)
    except (
        RuntimeError,
        torch.onnx.errors.OnnxExporterError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise ExportError.of(
            graph.name,
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            expected=f"a valid graph of opset {OPSET}",
            fix="correct the exported code",
        ) from error


def _traced_input(tensor: TensorSpec, image_size: int) -> torch.Tensor:
    static = tensor.shape(image_size)
    shape = [TRACED_DIMS.get(str(dim), size) for dim, size in zip(tensor.dims, static, strict=True)]
    return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))


def label(
    exported: onnx.ModelProto, graph: GraphSpec, image_size: int, properties: Mapping[str, Any]
) -> None:
    """Set the declared inputs and outputs to the contract's, and the producer and metadata.

    Args:
        exported: changed in place.
        graph: specification of the graph.
        image_size: side S of the encoder's frame.
        properties: metadata; values other than strings are written as JSON.
    """
    for declared, tensors in (
        (exported.graph.input, graph.inputs),
        (exported.graph.output, graph.outputs),
    ):
        # The exporter's declarations carry traced sizes; the contract names the dynamic dimensions.
        del declared[:]
        for tensor in tensors:
            dims = [
                str(dim) if size < 0 else size
                for dim, size in zip(tensor.dims, tensor.shape(image_size), strict=True)
            ]
            declared.append(
                onnx.helper.make_tensor_value_info(tensor.name, ELEMENT_TYPES[tensor.dtype], dims)
            )
    exported.graph.name = graph.name
    exported.producer_name = "cpcsam"
    exported.producer_version = tool_versions().get("cpcsam", "")
    onnx.helper.set_model_props(
        exported,
        {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in properties.items()
        },
    )


def save(exported: onnx.ModelProto, file: Path) -> None:
    """Write a graph; weights beyond `INLINE_BYTES` go to `FILE.data`."""
    weights = sum(len(tensor.raw_data) for tensor in exported.graph.initializer)
    onnx.save_model(
        exported,
        file,
        save_as_external_data=weights > INLINE_BYTES,
        location=f"{file.name}.data",
    )


@contextmanager
def shape_only_kernels() -> Iterator[None]:
    """Replace the CPU kernels of products by shape-only stubs while tracing.

    `torch.mm`, `torch.addmm`, `torch.bmm` and the convolution of float16 return tensors of the
    right shape and dtype without values, since a processor without float16 arithmetic takes minutes
    for the products of an encoder. The stubs lie beneath the tracer, which records the operators as
    usual. The replacement is process-wide: no other thread may compute inside the block.
    """
    with torch.library._scoped_library("aten", "IMPL") as library, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of every replaced kernel
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
        library.impl("bmm", _bmm, "CPU")
        library.impl("_slow_conv2d_forward", _conv2d, "CPU")
        yield


def _mm(left: Tensor, right: Tensor) -> Tensor:
    return left.new_zeros(left.shape[0], right.shape[1])


def _addmm(_: Tensor, left: Tensor, right: Tensor, **__: object) -> Tensor:
    return _mm(left, right)


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    return left.new_zeros(*left.shape[:2], right.shape[2])


def _conv2d(
    image: Tensor,
    weight: Tensor,
    kernel_size: Sequence[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    sides = zip(image.shape[2:], kernel_size, stride, padding, strict=True)
    shape = ((side + 2 * border - kernel) // step + 1 for side, kernel, step, border in sides)
    return image.new_zeros(len(image), len(weight), *shape)
