"""Command: compare exported graphs with torch, on random tensors and on real images.

python -m export.compare --merged build/merged --onnx build/onnx
python -m export.compare --merged build/merged --onnx build/onnx --images IMAGE... --out DIR
python -m export.compare --merged build/merged --onnx build/onnx --provider cuda

The export runs the same comparison before it publishes; this command repeats it on the published
graphs, optionally with images of your own, or on a GPU. DIR gets comparison.json and
comparison.html.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.backends.onnx_backend import PROVIDERS, Provider
from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ExportError
from cpcsam.images.options import Intensity
from cpcsam.model.run_checkpoint import load_merged
from export.accuracy.comparison import (
    PAGE_NAME,
    REPORT_NAME,
    TOLERANCES,
    Comparison,
    require_fidelity,
)
from export.accuracy.mask_fidelity import find_cases, measure
from export.accuracy.parity_grid import compare_on_grid
from export.accuracy.runners import OnnxRunner, TorchRunner
from export.provenance import require_made_from
from export.real_images import packaged_images, read_scenes

__all__ = ["main"]

PROG: Final = "python -m export.compare"


def _compare(merged: Path, onnx: Path, images: Sequence[Path], provider: Provider) -> Comparison:
    manifest = read_manifest(onnx, "onnx")
    model = load_merged(merged)
    require_made_from(onnx, manifest, merged)
    precision = str(manifest.config["precision"])
    reference, engine = TorchRunner(model), OnnxRunner(onnx, precision, provider=provider)
    rows = compare_on_grid(reference, engine, model.image_size, TOLERANCES[precision].grid)
    intensity = Intensity.of_manifest(manifest.config)
    scenes = read_scenes(images or packaged_images(), model.image_size, intensity)
    fidelity = measure(find_cases(reference, scenes), engine)
    return Comparison(precision, {engine.name: rows}, [fidelity])


def _run(args: argparse.Namespace) -> None:
    comparison = _compare(args.merged, args.onnx, args.images, args.provider)
    verdict, failure = "Within tolerance.", None
    try:
        image_size = int(read_manifest(args.onnx, verify=False).config["image_size"])
        for fidelity in comparison.fidelity:
            require_fidelity(fidelity, comparison.precision, image_size, on_grid=True)
    except ExportError as error:
        verdict, failure = str(error), error
    if args.out is not None:
        comparison.write(args.out / REPORT_NAME, args.out / PAGE_NAME, verdict)
    if failure is not None:
        raise failure
    for part, by_engine in comparison.figures().items():
        for engine, figures in by_engine.items():
            print(f"{part}, {engine}")
            for name, value in figures.items():
                print(f"  {name:50} {value:.6g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--onnx", type=Path, metavar="DIR", required=True)
    parser.add_argument("--images", type=Path, metavar="FILE", nargs="+", default=())
    text = "of ONNX Runtime, in which they run; default: %(default)s"
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help=text)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the report")
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
