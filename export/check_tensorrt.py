"""Command: check that TensorRT builds the graphs, ahead of time with TensorRT-RTX and no GPU.

python -m export.check_tensorrt --onnx build/onnx
python -m export.check_tensorrt --model-size vit_b --image-size 1024

The second form exports an untrained model in float32 and float16: a trained one differs only in the
values of its weights. TensorRT-RTX shares parser and compiler with TensorRT and builds for a GPU
that this machine need not have. The plans cannot run without one, so numbers are not checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.commands import parser_of, run_command
from cpcsam.contract import IMAGE_SIZES, MODEL_SIZES, calibrates_of, graphs_of
from cpcsam.model.capl import FULL_CAPL
from cpcsam.model.fusion import build_merged
from export.engines.builder import AHEAD_OF_TIME, PRECISIONS, plan_from_onnx
from export.engines.importing import require_tensorrt_rtx
from export.graphs.precisions import trace_graphs

__all__ = ["check_graphs", "main"]

PROG: Final = "python -m export.check_tensorrt"


def check_graphs(folder: Path, image_size: int, *, calibrates: bool = False) -> dict[str, float]:
    """Build a plan of every graph of the contract and discard it.

    Args:
        folder: folder of `GRAPH.onnx`.
        image_size: side S of the encoder's frame.
        calibrates: whether the graphs are those of a model that calibrates prompts.

    Returns:
        Build times in seconds, by graph.

    Raises:
        ConfigError: TensorRT-RTX is not installed.
        ExportError: TensorRT rejects a graph; the message names the node.
    """
    trt = require_tensorrt_rtx()
    seconds = {}
    for graph in graphs_of(calibrates):
        started = time.monotonic()
        plan_from_onnx(trt, folder / f"{graph.name}.onnx", graph, image_size, AHEAD_OF_TIME)
        seconds[graph.name] = time.monotonic() - started
    return seconds


def _check_untrained(model_size: str, image_size: int) -> dict[str, float]:
    model = build_merged(model_size, image_size, FULL_CAPL).requires_grad_(False)
    seconds = {}
    for precision in PRECISIONS:
        with TemporaryDirectory(prefix="cpcsam-") as folder:
            trace_graphs(model, Path(folder), precision)
            built = check_graphs(Path(folder), image_size, calibrates=model.calibrates)
            for name, duration in built.items():
                seconds[f"{name}, {precision}"] = duration
    return seconds


def _check(args: argparse.Namespace) -> None:
    if args.onnx is None:
        seconds = _check_untrained(args.model_size, args.image_size)
    else:
        manifest = read_manifest(args.onnx, "onnx")
        seconds = check_graphs(
            args.onnx,
            int(manifest.config["image_size"]),
            calibrates=bool(calibrates_of(manifest.config)),
        )
    for name, duration in seconds.items():
        print(f"{name:30} builds ({duration:.1f} s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, 0 if every graph builds."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--onnx", type=Path, metavar="DIR", help="exported graphs")
    parser.add_argument(
        "--model-size", choices=MODEL_SIZES, default="vit_b", help="default: %(default)s"
    )
    parser.add_argument(
        "--image-size", type=int, choices=IMAGE_SIZES, default=1024, help="default: %(default)s"
    )
    return run_command(parser, _check, argv)


if __name__ == "__main__":
    sys.exit(main())
