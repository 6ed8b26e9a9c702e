"""Command: compare exported graphs with torch, on random tensors and on real images.

python -m export.compare --merged build/merged --onnx build/onnx
python -m export.compare --merged build/merged --onnx build/onnx --images IMAGE... --out DIR

The export does it before it publishes anything; this repeats it on what was published, with images
of your own if you like. DIR gets comparison.json and comparison.html.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cpcsam.artifacts.manifest import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    sha256_file,
    write_atomic,
)
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.errors import ArtifactError, ExportError
from cpcsam.model.run_checkpoint import load_merged
from export.accuracy.mask_fidelity import Fidelity, find_cases, measure
from export.accuracy.parity_grid import Row, compare_on_grid, worst_by_output
from export.accuracy.report import comparison_page
from export.accuracy.runners import OnnxRunner, TorchRunner
from export.real_images import packaged_images, read_scenes

__all__ = [
    "PAGE_NAME",
    "REPORT_NAME",
    "TOLERANCES",
    "Comparison",
    "Tolerance",
    "judge",
    "main",
    "require_fidelity",
    "require_made_from",
]

PROG: Final = "python -m export.compare"
REPORT_NAME: Final = "comparison.json"
PAGE_NAME: Final = "comparison.html"


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from torch.

    Attributes:
        grid: every output on random tensors, relative to its largest value.
        iou_mean: least mean IoU of the masks on real images.
        iou_min: least IoU of any of them.
        boundary: largest mean distance of two masks' contours, as a part of S.
    """

    grid: float
    iou_mean: float
    iou_min: float
    boundary: float


TOLERANCES: Final = {
    "fp32": Tolerance(grid=1e-5, iou_mean=0.9999, iou_min=0.995, boundary=1e-4),
    "fp16": Tolerance(grid=2e-2, iou_mean=0.998, iou_min=0.99, boundary=1e-3),
    "int8": Tolerance(grid=5e-2, iou_mean=0.998, iou_min=0.99, boundary=1e-3),
}
"""By precision. Float32 rounding makes about 1e-6 on the grid."""


@dataclass(frozen=True)
class Comparison:
    """What was compared and how far it was apart.

    Attributes:
        precision: of the graphs that were made; a key of `TOLERANCES`.
        grid: rows on random tensors, by engine.
        fidelity: comparisons on real images, one an engine.
    """

    precision: str
    grid: Mapping[str, Sequence[Row]]
    fidelity: Sequence[Fidelity]

    def figures(self) -> dict[str, Any]:
        """Return the worst of the grid and the summary of the masks, by engine."""
        return {
            "grid": {engine: worst_by_output(rows) for engine, rows in self.grid.items()},
            "masks": {found.engine: found.summary() for found in self.fidelity},
        }

    def write(self, json_file: Path, page_file: Path, verdict: str) -> None:
        """Write the report and the page, each atomically.

        Args:
            json_file: gets every row.
            page_file: gets the figures and the worst masks.
            verdict: passed, or what failed.
        """
        tolerance = asdict(TOLERANCES[self.precision])
        report = {
            "precision": self.precision,
            "verdict": verdict,
            "tolerance": tolerance,
            "measure": "largest absolute difference over the largest absolute value of torch",
            **self.figures(),
            "grid_rows": {
                engine: [asdict(row) for row in rows] for engine, rows in self.grid.items()
            },
            "mask_rows": {
                found.engine: [asdict(row) for row in found.rows] for found in self.fidelity
            },
        }
        write_atomic(json_file, (json.dumps(report, indent=1) + "\n").encode())
        worst = {engine: worst_by_output(rows) for engine, rows in self.grid.items()}
        title = f"Torch and what was exported in {self.precision}"
        page = comparison_page(title, verdict, tolerance, worst, self.fidelity)
        write_atomic(page_file, page.encode())


def require_fidelity(found: Fidelity, precision: str, image_size: int) -> None:
    """Refuse an engine whose masks on real images are too far from the model's.

    Where no mask counts there is nothing to judge: that is accepted of float32, which the grid
    has proved, and of nothing else.

    Args:
        found: the comparison.
        precision: a key of `TOLERANCES`.
        image_size: side S of the frame.

    Raises:
        ExportError: names the measure that failed and the worst mask.
    """
    tolerance, summary = TOLERANCES[precision], found.summary()
    if not found.counted:
        if precision == "fp32":
            return
        raise ExportError.of(
            f"{found.engine}, masks on real images",
            got="no mask that the model itself draws distinctly",
            expected="some to judge by",
            fix="give --images of the kind that the model was trained on, or export in fp32",
        )
    worst = found.worst[0].row
    for measure_name, got, expected, sound in (
        ("mean mask IoU", summary["iou_mean"], tolerance.iou_mean, 1),
        ("least mask IoU", summary["iou_min"], tolerance.iou_min, 1),
        (
            "contours' distance in pixels",
            summary["boundary_mean_max"],
            tolerance.boundary * image_size,
            -1,
        ),
    ):
        if not sound * got >= sound * expected:
            raise ExportError.of(
                f"{found.engine}, {measure_name} over {len(found.counted)} masks of real images",
                got=f"{got:.4f} (worst {worst.scene}, {worst.prompt}: IoU {worst.iou:.4f})",
                expected=f"at {'least' if sound > 0 else 'most'} {expected:.4f}",
                fix="look at the worst masks in the report, and export with another --precision",
            )


def judge(
    comparison: Comparison, precisions: Sequence[str], image_size: int, folder: Path, out: Path
) -> None:
    """Write the report into what is about to be published; refuse what is beyond a tolerance.

    Args:
        comparison: what was measured.
        precisions: of each engine in it; keys of `TOLERANCES`.
        image_size: side S of the frame.
        folder: gets comparison.json and comparison.html.
        out: what is published; when it is refused, the page is `OUT-rejected.html`.

    Raises:
        ExportError: names the measure that failed and the worst mask.
    """
    rejected = out.with_name(f"{out.name}-rejected.html")
    try:
        for precision, found in zip(precisions, comparison.fidelity, strict=True):
            require_fidelity(found, precision, image_size)
    except ExportError as error:
        comparison.write(folder / REPORT_NAME, rejected, str(error))
        raise
    comparison.write(folder / REPORT_NAME, folder / PAGE_NAME, "Within tolerance.")
    rejected.unlink(missing_ok=True)


def require_made_from(path: Path, manifest: Manifest, merged: Path) -> None:
    """Refuse an artifact that was made of another model.

    Raises:
        ArtifactError: names both models.
    """
    digest, made_from = sha256_file(merged / MANIFEST_NAME), manifest.parents.get("merged", "none")
    if made_from != digest:
        raise ArtifactError.of(
            str(path),
            got=f"{manifest.kind} of the merged model {made_from[:12]}",
            expected=f"of {merged}, {digest[:12]}",
            fix="export that model, or give the one that was exported",
        )


def _compare_published(merged: Path, onnx: Path, images: Sequence[Path]) -> Comparison:
    manifest = read_manifest(onnx, "onnx")
    model = load_merged(merged)
    require_made_from(onnx, manifest, merged)
    precision = str(manifest.config["precision"])
    reference, found = TorchRunner(model), OnnxRunner(onnx, precision)
    rows = compare_on_grid(reference, found, model.image_size, TOLERANCES[precision].grid)
    scenes = read_scenes(images or packaged_images(), model.image_size)
    fidelity = measure(find_cases(reference, scenes), found)
    return Comparison(precision, {found.name: rows}, [fidelity])


def _parser() -> ArgumentParser:
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--onnx", type=Path, metavar="DIR", required=True)
    parser.add_argument("--images", type=Path, metavar="FILE", nargs="+", default=())
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the report")
    return parser


def _run(args: argparse.Namespace) -> None:
    comparison = _compare_published(args.merged, args.onnx, args.images)
    verdict, failure = "Within tolerance.", None
    try:
        image_size = int(read_manifest(args.onnx, verify=False).config["image_size"])
        for fidelity in comparison.fidelity:
            require_fidelity(fidelity, comparison.precision, image_size)
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
    """Run the command; 0 when all agree, 2 after an error, told in one line."""
    args = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
