"""Command: export a merged model to the five ONNX graphs of the tensor contract.

python -m export.to_onnx --merged build/merged --out build/onnx
python -m export.to_onnx --merged build/merged --out build/onnx --precision fp16
python -m export.to_onnx --merged build/merged --out build/onnx --precision fp16 --provider cuda
python -m export.to_onnx --merged build/merged --out build/onnx --precision int8 --images IMAGE...

fp32 and fp16 are for ONNX Runtime and TensorRT, int8 is for the CPU. Before anything is published,
the graphs are compared with torch on random tensors and on real images: those given, by default
the ones that come with the project. comparison.html shows the worst masks. The graphs run on the
CPU and, with --provider cuda, where there is a GPU, on that as well.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from cpcsam.artifacts.manifest import (
    MANIFEST_NAME,
    is_made_from,
    publish,
    read_manifest,
    sha256_file,
)
from cpcsam.backends.onnx_backend import PROVIDERS, Provider
from cpcsam.commands import parser_of, run_command
from cpcsam.contract import CALIBRATES
from cpcsam.errors import ConfigError, ExportError
from cpcsam.gpu import visible_gpus
from cpcsam.images.options import Intensity
from cpcsam.model.fusion import FusedCpcSam
from cpcsam.model.run_checkpoint import load_merged
from export.accuracy.comparison import (
    TOLERANCES,
    Comparison,
    mask_iou_lines,
    require_fidelity,
    write_accepted,
)
from export.accuracy.mask_fidelity import Case, Fidelity, find_cases, measure
from export.accuracy.parity_grid import Row, compare_on_grid
from export.accuracy.runners import GraphRunner, OnnxRunner, TorchRunner
from export.graphs.precisions import write_graphs
from export.graphs.tracing import OPSET
from export.provenance import COMPARED_IN, code_digest
from export.real_images import packaged_images, read_scenes

__all__ = ["PRECISIONS", "export_graphs", "main"]

PROG: Final = "python -m export.to_onnx"
PRECISIONS: Final = tuple(TOLERANCES)
_Compared: TypeAlias = "tuple[Sequence[Row], Fidelity]"
"""Of an engine with torch: on random tensors, and its masks on real images."""


def export_graphs(
    model: FusedCpcSam,
    out: Path,
    *,
    parents: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    images: Sequence[Path] = (),
    provider: Provider = "cpu",
) -> Comparison:
    """Export the graphs, compare them with torch and publish an artifact of kind `onnx`.

    The chain is torch, float32 graphs, graphs of the precision; each link is compared with torch,
    on random tensors and on real images.

    Args:
        model: the fused model.
        out: the artifact to write: five graphs, comparison.json and comparison.html.
        parents: digests of the artifacts that the model was loaded from.
        config: the merged model's configuration; calibrates, precision and opset are added.
        precision: one of `PRECISIONS`.
        images: real images for the comparison; empty uses the packaged ones.
        provider: of ONNX Runtime, in which the graphs are compared besides the CPU's.

    Raises:
        ConfigError: the provider cannot be used here.
        DataError: an image cannot be read.
        ExportError: a graph cannot be exported or is too far from torch; nothing is published. If
            its masks are, `OUT-rejected.html` shows them.
    """
    metrics: dict[str, Any] = {}
    full_config = {
        **(config or {}),
        CALIBRATES: model.calibrates,
        "precision": precision,
        "opset": OPSET,
    }
    if provider != "cpu":
        full_config[COMPARED_IN] = provider
    intensity = Intensity.of_manifest(full_config)
    scenes = read_scenes(images or packaged_images(), model.image_size, intensity)
    with publish(out, "onnx", parents=parents, config=full_config, metrics=metrics) as staging:
        reference = TorchRunner(model)
        cases = find_cases(reference, scenes)
        compare = partial(_compare, reference, cases, model.image_size)
        compared: dict[str, _Compared] = {}

        def accepts(folder: Path, first: int) -> bool:
            runner = OnnxRunner(folder, precision)
            found = _compare_int8(compare, runner, model.image_size, first)
            compared.update({runner.name: found} if found else {})
            return found is not None

        folders = write_graphs(model, staging, precision, full_config, scenes, accepts)
        runners = [(name, OnnxRunner(folder, name)) for name, folder in folders.items()]
        if provider != "cpu":
            runners.append((precision, OnnxRunner(staging, precision, provider=provider)))
        for name, runner in runners:
            if runner.name not in compared:
                compared[runner.name] = compare(name, runner)
        grid = {runner.name: compared[runner.name][0] for _, runner in runners}
        fidelity = [compared[runner.name][1] for _, runner in runners]
        comparison = Comparison(precision, grid, fidelity)
        write_accepted(comparison, [name for name, _ in runners], model.image_size, staging, out)
        metrics.update(comparison.figures())
        if precision != "fp32":
            shutil.rmtree(folders["fp32"])
    return comparison


def _compare(
    reference: GraphRunner,
    cases: Sequence[Case],
    image_size: int,
    precision: str,
    runner: GraphRunner,
) -> _Compared:
    # In int8, only the encoder differs from the float32 graphs.
    only = precision == "int8"
    tolerance = TOLERANCES[precision].grid
    rows = compare_on_grid(reference, runner, image_size, tolerance, encoder_only=only)
    return rows, measure(cases, runner)


def _compare_int8(
    compare: Callable[[str, GraphRunner], _Compared],
    runner: GraphRunner,
    image_size: int,
    first: int,
) -> _Compared | None:
    """Compare int8 from a block on and print the verdict; None if it is out of tolerance."""
    try:
        compared = compare("int8", runner)
        require_fidelity(compared[1], "int8", image_size, on_grid=True)
    except ExportError as error:
        print(f"int8 from block {first} on is out of tolerance: {error}")
        return None
    print(f"int8 from block {first} on is within tolerance")
    return compared


def _run(args: argparse.Namespace) -> None:
    if args.provider == "cuda" and args.precision == "int8":
        raise ConfigError.of(
            "--precision",
            got="int8 with --provider cuda",
            expected="fp32 or fp16, as int8 is for the CPU",
            fix="give one of them",
        )
    merged = read_manifest(args.merged, "merged")
    parents = {"merged": sha256_file(args.merged / MANIFEST_NAME), "code": code_digest()}
    parents |= {f"image_{index}": sha256_file(file) for index, file in enumerate(args.images)}
    config = {**merged.config, "precision": args.precision}
    provider: Provider = args.provider if args.provider == "cpu" or visible_gpus() else "cpu"
    if provider != args.provider:
        print(f"{args.out}: no GPU here, so the graphs are not compared in the CUDA provider")
    if provider != "cpu":
        config[COMPARED_IN] = provider
    if is_made_from(args.out, "onnx", parents=parents, config=config):
        print(f"{args.out}: unchanged")
        return
    comparison = export_graphs(
        load_merged(args.merged),
        args.out,
        parents=parents,
        config=merged.config,
        precision=args.precision,
        images=args.images,
        provider=provider,
    )
    print(f"{args.out}: five graphs in {args.precision}, within tolerance of torch")
    figures = comparison.figures()
    for engine, worst in figures["grid"].items():
        name, difference = max(worst.items(), key=lambda item: item[1])
        print(f"{engine}: largest relative difference {difference:.1e} ({name})")
    for line in mask_iou_lines(figures["masks"]):
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s"
    )
    parser.add_argument("--images", type=Path, metavar="FILE", nargs="+", default=())
    text = "of ONNX Runtime, for which the graphs are; default: %(default)s"
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help=text)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
