"""Command: prove without a GPU that TensorRT builds the graphs, by TensorRT-RTX.

python -m export.check_tensorrt --onnx build/onnx
python -m export.check_tensorrt --model-size vit_b --image-size 1024

The second form exports an untrained model in float32 and float16, as only the weights' values would
differ. TensorRT-RTX shares parser and compiler with TensorRT and builds ahead of time, for a GPU
that is not there. What it builds cannot run without one, so this proves nothing about numbers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Final

from tqdm import tqdm

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.contract import GRAPHS, IMAGE_SIZES, MODEL_SIZES
from cpcsam.errors import ConfigError
from cpcsam.model.capl import CaplConfig
from cpcsam.model.fusion import FusedCpcSam, build_merged
from export.build_engine import PRECISIONS
from export.engines.builder import PlanOptions, plan_from_onnx
from export.graphs.fp16 import to_half
from export.graphs.traceable import exportable
from export.graphs.tracing import onnx_from_torch

__all__ = ["RTX_OPTIONS", "check_graphs", "load_rtx", "main", "trace_graphs"]

PROG: Final = "python -m export.check_tensorrt"
RTX_OPTIONS: Final = PlanOptions(workspace_bytes=16 << 30, compute_capability="8.9")


def load_rtx() -> ModuleType:
    """Import TensorRT-RTX.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("tensorrt_rtx_bindings")
    except ImportError as error:
        raise ConfigError.of(
            "TensorRT-RTX",
            got=str(error),
            expected="its wheels",
            fix="pip install 'cpcsam[export]'",
        ) from error


def check_graphs(folder: Path, image_size: int) -> dict[str, float]:
    """Build a plan of every graph of the contract and throw it away.

    Args:
        folder: where `GRAPH.onnx` are.
        image_size: side of the encoder's frame.

    Returns:
        Seconds, by graph.

    Raises:
        ExportError: TensorRT refuses a graph; the message names the node.
    """
    trt = load_rtx()
    seconds = {}
    for graph in GRAPHS:
        started = time.monotonic()
        plan_from_onnx(trt, folder / f"{graph.name}.onnx", graph, image_size, RTX_OPTIONS)
        seconds[graph.name] = time.monotonic() - started
    return seconds


def trace_graphs(model: FusedCpcSam, folder: Path, precision: str) -> None:
    """Write every graph of the contract to a folder, compared with nothing.

    Args:
        model: the fused model.
        folder: where `GRAPH.onnx` are written.
        precision: one of `export.build_engine.PRECISIONS`.
    """
    traced = exportable(model)
    if precision == "fp16":
        traced = to_half(traced)
    with tqdm(GRAPHS, desc=f"export, {precision}", unit="graph") as progress:
        for graph in progress:
            onnx_from_torch(traced, graph, folder / f"{graph.name}.onnx", {})


def _check_untrained(model_size: str, image_size: int) -> dict[str, float]:
    model = build_merged(model_size, image_size, CaplConfig()).requires_grad_(False)
    seconds = {}
    for precision in PRECISIONS:
        with TemporaryDirectory(prefix="cpcsam-") as folder:
            trace_graphs(model, Path(folder), precision)
            for name, duration in check_graphs(Path(folder), image_size).items():
                seconds[f"{name}, {precision}"] = duration
    return seconds


def _check(args: argparse.Namespace) -> None:
    if args.onnx is None:
        seconds = _check_untrained(args.model_size, args.image_size)
    else:
        manifest = read_manifest(args.onnx, "onnx")
        seconds = check_graphs(args.onnx, int(manifest.config["image_size"]))
    for name, duration in seconds.items():
        print(f"{name:30} builds ({duration:.1f} s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every graph builds, 2 after an error, told in one line."""
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("--onnx", type=Path, metavar="DIR", help="exported graphs")
    parser.add_argument(
        "--model-size", choices=MODEL_SIZES, default="vit_b", help="default: %(default)s"
    )
    parser.add_argument(
        "--image-size", type=int, choices=IMAGE_SIZES, default=1024, help="default: %(default)s"
    )
    args = parser.parse_args(argv)
    return exit_code_of(lambda: _check(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
