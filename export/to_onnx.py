"""Command: export a merged model to the five ONNX graphs of the tensor contract.

python -m export.to_onnx --merged build/merged --out build/onnx
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from onnx import TensorProto
from tqdm import tqdm

from cpcsam.artifact import MANIFEST_NAME, publish, read_manifest, sha256_file, tool_versions
from cpcsam.checkpoint import load_merged
from cpcsam.contract import GRAPHS, GraphSpec, TensorSpec
from cpcsam.errors import CpcSamError, ExportError
from cpcsam.model.fuse import FusedCpcSam
from export.compare import Comparison, compare
from export.graphs import GraphModule

__all__ = ["OPSET", "PRECISIONS", "export_graphs", "main", "onnx_from_torch"]

OPSET: Final = 18
PRECISIONS: Final = ("fp32",)
INLINE_BYTES: Final = 1_500_000_000
"""A graph with more weights keeps them in a file beside it: protobuf ends at 2 GB."""
ELEMENT_TYPES: Final = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}
TRACED_DIMS: Final = {"B": 2, "P": 3, "N": 4, "N+1": 5}
"""Dynamic dimensions of the traced inputs; 1 would let a missing expansion pass."""


def export_graphs(
    model: FusedCpcSam,
    out: Path,
    *,
    parents: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    precision: str = "fp32",
) -> Comparison:
    """Export, compare with torch and publish an artifact of kind `onnx`.

    Args:
        model: the fused model.
        out: the artifact to write: five graphs and comparison.json.
        parents: digests of what the model was loaded from.
        config: the merged model's configuration; precision and opset are added.
        precision: one of `PRECISIONS`.

    Raises:
        ExportError: a graph cannot be exported or differs from torch; nothing is published.
    """
    metrics: dict[str, Any] = {}
    full_config = {**(config or {}), "precision": precision, "opset": OPSET}
    with publish(out, "onnx", parents=parents, config=full_config, metrics=metrics) as staging:
        with tqdm(GRAPHS, desc="export", unit="graph") as progress:
            for graph in progress:
                progress.set_postfix_str(graph.name)
                onnx_from_torch(model, graph, staging / f"{graph.name}.onnx", full_config)
        comparison = compare(model, staging)
        report = json.dumps(comparison.report(), indent=1) + "\n"
        (staging / "comparison.json").write_text(report)
        metrics["relative_difference"] = comparison.worst()
    return comparison


def onnx_from_torch(
    model: FusedCpcSam, graph: GraphSpec, file: Path, properties: Mapping[str, Any]
) -> None:
    """Export one graph by tracing; ONNX's own checker has accepted what is written.

    The tracing exporter serves, as torch's newer one takes 10 to 20 times as long for the same
    values and the same speed. Where a size is frozen by tracing, `compare` finds it.

    Args:
        model: the fused model.
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
        with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
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
        _label(exported, graph, size, properties)
        _save(exported, file)
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


def _label(
    exported: onnx.ModelProto, graph: GraphSpec, image_size: int, properties: Mapping[str, Any]
) -> None:
    """Declare inputs and outputs as the contract spells them, and where the graph is from."""
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


def _save(exported: onnx.ModelProto, file: Path) -> None:
    weights = sum(len(tensor.raw_data) for tensor in exported.graph.initializer)
    onnx.save_model(
        exported,
        file,
        save_as_external_data=weights > INLINE_BYTES,
        location=f"{file.name}.data",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 after an error, told in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.to_onnx",
        description="Export a merged model to the five ONNX graphs of the tensor contract.",
    )
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s"
    )
    args = parser.parse_args(argv)
    try:
        model = load_merged(args.merged)
        comparison = export_graphs(
            model,
            args.out,
            parents={"merged": sha256_file(args.merged / MANIFEST_NAME)},
            config=read_manifest(args.merged, "merged", verify=False).config,
            precision=args.precision,
        )
    except (CpcSamError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    worst = max(comparison.worst().items(), key=lambda item: item[1])
    print(f"{args.out}: largest relative difference to torch {worst[1]:.1e} ({worst[0]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
