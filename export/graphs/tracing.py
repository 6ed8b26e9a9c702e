"""From a torch model to an .onnx file, one graph of the contract at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from onnx import TensorProto

from cpcsam.artifacts.manifest import tool_versions
from cpcsam.contract import GraphSpec, TensorSpec
from cpcsam.errors import ExportError
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule
from export.graphs.shape_only import shapes_alone

__all__ = ["OPSET", "label", "onnx_from_torch", "save"]

OPSET: Final = 18
INLINE_BYTES: Final = 1_500_000_000
"""A graph with more weights keeps them in a file beside it: protobuf ends at 2 GB."""
ELEMENT_TYPES: Final = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}
TRACED_DIMS: Final = {"B": 2, "P": 3, "N": 4, "N+1": 5}
"""Dynamic dimensions of the traced inputs; 1 would let a missing expansion pass."""


def onnx_from_torch(
    model: CpcSam, graph: GraphSpec, file: Path, properties: Mapping[str, Any]
) -> None:
    """Export one graph by tracing; ONNX's own checker has accepted what is written.

    The tracing exporter serves, as torch's newer one takes 10 to 20 times as long for the same
    values and the same speed. Where a size is frozen by tracing, the grid finds it.

    Args:
        model: usually in the form of `export.graphs.traceable` or `export.graphs.fp16`.
        graph: the contract's graph.
        file: the .onnx file to write; its weights go to `FILE.data` beyond `INLINE_BYTES`.
        properties: written into the graph as its metadata.

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
            shapes_alone(),
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
    """Declare inputs and outputs as the contract spells them, and where the graph is from.

    Args:
        exported: changed in place.
        graph: the contract's graph.
        image_size: side S.
        properties: written as the graph's metadata.
    """
    for declared, tensors in (
        (exported.graph.input, graph.inputs),
        (exported.graph.output, graph.outputs),
    ):
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
    """Write a graph, its weights beside it in `FILE.data` beyond `INLINE_BYTES`."""
    weights = sum(len(tensor.raw_data) for tensor in exported.graph.initializer)
    onnx.save_model(
        exported,
        file,
        save_as_external_data=weights > INLINE_BYTES,
        location=f"{file.name}.data",
    )
