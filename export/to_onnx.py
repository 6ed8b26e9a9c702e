"""Command: export a merged model to the five ONNX graphs of the tensor contract.

python -m export.to_onnx --merged build/merged --out build/onnx
python -m export.to_onnx --merged build/merged --out build/onnx --precision fp16
python -m export.to_onnx --merged build/merged --out build/onnx --precision int8 --images IMAGE...

fp32 and fp16 are for ONNX Runtime and TensorRT, int8 is for the CPU. Before anything is published,
the graphs are compared with torch; FILEs are real images for that, by default those that come with
the project. comparison.html shows the worst masks.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
from tqdm import tqdm

from cpcsam.artifacts.manifest import (
    MANIFEST_NAME,
    is_made_from,
    publish,
    read_manifest,
    sha256_file,
)
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.contract import GRAPHS, IMAGE_ENCODER
from cpcsam.model.fusion import FusedCpcSam
from cpcsam.model.run_checkpoint import load_merged
from export.accuracy.mask_fidelity import find_cases, measure
from export.accuracy.parity_grid import Row, compare_on_grid
from export.accuracy.runners import OnnxRunner, TorchRunner
from export.compare import TOLERANCES, Comparison, judge
from export.graphs.fp16 import to_half
from export.graphs.int8 import quantize_encoder
from export.graphs.smooth_quant import smooth_encoder
from export.graphs.traceable import exportable
from export.graphs.tracing import OPSET, label, onnx_from_torch, save
from export.provenance import code_digest
from export.real_images import Scene, packaged_images, read_scenes

__all__ = ["OPSET", "PRECISIONS", "export_graphs", "main", "onnx_from_torch"]

PROG: Final = "python -m export.to_onnx"
PRECISIONS: Final = tuple(TOLERANCES)


def export_graphs(
    model: FusedCpcSam,
    out: Path,
    *,
    parents: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    images: Sequence[Path] = (),
) -> Comparison:
    """Export, compare with torch and publish an artifact of kind `onnx`.

    The chain is torch, float32 graphs, graphs of the precision; each link is compared with torch,
    on random tensors and on real images.

    Args:
        model: the fused model.
        out: the artifact to write: five graphs, comparison.json and comparison.html.
        parents: digests of what the model was loaded from.
        config: the merged model's configuration; precision and opset are added.
        precision: one of `PRECISIONS`.
        images: real images to compare on; none takes the packaged ones.

    Raises:
        DataError: an image cannot be read.
        ExportError: a graph cannot be exported or is too far from torch; nothing is published. If
            its masks are, `OUT-rejected.html` shows them.
    """
    metrics: dict[str, Any] = {}
    full_config = {**(config or {}), "precision": precision, "opset": OPSET}
    scenes = read_scenes(images or packaged_images(), model.image_size)
    with publish(out, "onnx", parents=parents, config=full_config, metrics=metrics) as staging:
        folders = _write_graphs(model, staging, precision, full_config, scenes)
        reference = TorchRunner(model)
        runners = {name: OnnxRunner(folder, name) for name, folder in folders.items()}
        grid: dict[str, Sequence[Row]] = {}
        for name, runner in runners.items():
            grid[runner.name] = compare_on_grid(
                reference,
                runner,
                model.image_size,
                TOLERANCES[name].grid,
                encoder_only=name == "int8",
            )
        cases = find_cases(reference, scenes)
        fidelity = [measure(cases, runner) for runner in runners.values()]
        comparison = Comparison(precision, grid, fidelity)
        judge(comparison, list(runners), model.image_size, staging, out)
        metrics.update(comparison.figures())
        if precision != "fp32":
            shutil.rmtree(folders["fp32"])
    return comparison


def _write_graphs(
    model: FusedCpcSam,
    staging: Path,
    precision: str,
    properties: Mapping[str, Any],
    scenes: Sequence[Scene],
) -> dict[str, Path]:
    """Export to staging, and for a lower precision in float32 to a folder below it.

    Returns:
        The folder of each precision, float32 first.
    """
    full = exportable(model)
    if precision == "fp32":
        _trace_all(full, staging, precision, properties)
        return {"fp32": staging}
    folders = {"fp32": staging / "fp32", precision: staging}
    folders["fp32"].mkdir()
    _trace_all(full, folders["fp32"], "fp32", {**properties, "precision": "fp32"})
    if precision == "fp16":
        _trace_all(to_half(full), staging, precision, properties)
        return folders
    for file in folders["fp32"].iterdir():
        if not file.name.startswith(IMAGE_ENCODER.name):
            shutil.copyfile(file, staging / file.name)
    smooth, name = folders["fp32"] / "smooth", f"{IMAGE_ENCODER.name}.onnx"
    smooth.mkdir()
    onnx_from_torch(smooth_encoder(full, scenes), IMAGE_ENCODER, smooth / name, {})
    quantized = quantize_encoder(onnx.load(smooth / name))
    label(quantized, IMAGE_ENCODER, model.image_size, properties)
    save(quantized, staging / name)
    return folders


def _trace_all(
    model: FusedCpcSam, folder: Path, precision: str, properties: Mapping[str, Any]
) -> None:
    with tqdm(GRAPHS, desc=f"export, {precision}", unit="graph") as progress:
        for graph in progress:
            progress.set_postfix_str(graph.name)
            onnx_from_torch(model, graph, folder / f"{graph.name}.onnx", properties)


def _parser() -> ArgumentParser:
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s"
    )
    parser.add_argument("--images", type=Path, metavar="FILE", nargs="+", default=())
    return parser


def _run(args: argparse.Namespace) -> None:
    merged = read_manifest(args.merged, "merged")
    parents = {"merged": sha256_file(args.merged / MANIFEST_NAME), "code": code_digest()}
    parents |= {f"image_{index}": sha256_file(file) for index, file in enumerate(args.images)}
    wanted = {**merged.config, "precision": args.precision}
    if is_made_from(args.out, "onnx", parents=parents, config=wanted):
        print(f"{args.out}: unchanged")
        return
    comparison = export_graphs(
        load_merged(args.merged),
        args.out,
        parents=parents,
        config=merged.config,
        precision=args.precision,
        images=args.images,
    )
    print(f"{args.out}: five graphs in {args.precision}, within tolerance of torch")
    for engine, worst in comparison.figures()["grid"].items():
        name, difference = max(worst.items(), key=lambda item: item[1])
        print(f"{engine}: largest relative difference {difference:.1e} ({name})")
    for engine, summary in comparison.figures()["masks"].items():
        if summary["masks"]:
            print(
                f"{engine}: mask IoU mean {summary['iou_mean']:.4f}, minimum "
                f"{summary['iou_min']:.4f} over {summary['masks']} masks"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 after an error, told in one line."""
    args = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
