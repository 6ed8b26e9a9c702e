"""Write the contract's graphs to ONNX files in float32, float16 or int8."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import onnx
from tqdm import tqdm

from cpcsam.contract import IMAGE_ENCODER, graphs_of
from cpcsam.model.fusion import FusedCpcSam
from export.graphs.attention import FoldedAttention
from export.graphs.fp16 import to_fp16
from export.graphs.int8 import first_blocks, quantize_encoder
from export.graphs.smooth_quant import smooth_encoder
from export.graphs.traceable import TraceableCpcSam, make_traceable
from export.graphs.tracing import label, onnx_from_torch, save
from export.real_images import Scene

__all__ = ["trace_graphs", "write_graphs"]

INT8_FROM: Final = "int8_from_block"
NO_PROPERTIES: Final[Mapping[str, Any]] = MappingProxyType({})


def trace_graphs(
    model: FusedCpcSam,
    folder: Path,
    precision: str,
    properties: Mapping[str, Any] = NO_PROPERTIES,
) -> None:
    """Trace every graph of the contract into `GRAPH.onnx`, without comparing it to torch.

    Args:
        model: the fused model.
        folder: existing folder for the files.
        precision: `fp32` or `fp16`; int8 needs `write_graphs`.
        properties: metadata of every file.

    Raises:
        ExportError: torch cannot export a graph, or a weight is too large for float16.
    """
    if precision == "fp16":
        # For TensorRT, which fuses this form; float32 graphs are for ONNX Runtime as well.
        traceable: TraceableCpcSam = to_fp16(make_traceable(model, FoldedAttention))
    else:
        traceable = make_traceable(model)
    with tqdm(graphs_of(model.calibrates), desc=f"export, {precision}", unit="graph") as progress:
        for graph in progress:
            progress.set_postfix_str(graph.name)
            onnx_from_torch(traceable, graph, folder / f"{graph.name}.onnx", properties)


def write_graphs(
    model: FusedCpcSam,
    folder: Path,
    precision: str,
    properties: Mapping[str, Any],
    scenes: Sequence[Scene],
    accepts: Callable[[Path, int], bool],
) -> dict[str, Path]:
    """Write the graphs of a precision, and for a reduced one the float32 graphs it derives from.

    In int8, as many of the encoder's last blocks are quantised as `accepts` permits.

    Args:
        model: the fused model.
        folder: gets the graphs of `precision`; `folder/fp32` those in float32 of a reduced one.
        precision: `fp32`, `fp16` or `int8`.
        properties: metadata of every file.
        scenes: real images that calibrate SmoothQuant for int8.
        accepts: whether int8 graphs in a folder, quantised from a block on, are within tolerance.

    Returns:
        Folder of each precision, float32 first.

    Raises:
        ExportError: as `trace_graphs`.
    """
    if precision == "fp32":
        trace_graphs(model, folder, precision, properties)
        return {"fp32": folder}
    folders = {"fp32": folder / "fp32", precision: folder}
    folders["fp32"].mkdir()
    trace_graphs(model, folders["fp32"], "fp32", {**properties, "precision": "fp32"})
    if precision == "fp16":
        trace_graphs(model, folder, precision, properties)
        return folders
    for file in folders["fp32"].iterdir():
        if not file.name.startswith(IMAGE_ENCODER.name):
            shutil.copyfile(file, folder / file.name)
    for first in _int8_encoders(model, folder, properties, scenes):
        if accepts(folder, first):
            break
    return folders


def _int8_encoders(
    model: FusedCpcSam, folder: Path, properties: Mapping[str, Any], scenes: Sequence[Scene]
) -> Iterator[int]:
    """Write the encoder quantised from a block on, and after each yield in fewer blocks."""
    smooth, name = folder / "fp32/smooth", f"{IMAGE_ENCODER.name}.onnx"
    smooth.mkdir()
    smoothed = smooth_encoder(make_traceable(model), scenes)
    onnx_from_torch(smoothed, IMAGE_ENCODER, smooth / name, {})
    encoder = onnx.load(smooth / name)
    for first in first_blocks(encoder):
        quantized = quantize_encoder(encoder, first)
        label(quantized, IMAGE_ENCODER, model.image_size, {**properties, INT8_FROM: first})
        for file in folder.glob(f"{name}*"):
            file.unlink()  # weights next to a graph would be appended to
        save(quantized, folder / name)
        yield first
