"""Comparison of exported engines with torch: report, page, tolerances and the accuracy gate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ExportError
from export.accuracy.mask_fidelity import Fidelity
from export.accuracy.parity_grid import Row, worst_by_output
from export.accuracy.report import comparison_page

__all__ = [
    "PAGE_NAME",
    "REPORT_NAME",
    "TOLERANCES",
    "Comparison",
    "Tolerance",
    "mask_iou_lines",
    "require_fidelity",
    "write_accepted",
]


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted deviation of an engine from torch.

    Attributes:
        grid: of every output on random tensors, relative to its largest absolute value.
        scores: likewise of iou_predictions on real images.
        iou_mean: least mean IoU of the masks on real images.
        iou_min: least IoU of a single mask.
        boundary: largest mean distance of two masks' contours, as a fraction of the side S.
    """

    grid: float
    scores: float
    iou_mean: float
    iou_min: float
    boundary: float


TOLERANCES: Final = {
    "fp32": Tolerance(grid=1e-5, scores=1e-5, iou_mean=0.9999, iou_min=0.995, boundary=1e-4),
    "fp16": Tolerance(grid=2e-2, scores=5e-3, iou_mean=0.998, iou_min=0.99, boundary=1e-3),
    "int8": Tolerance(grid=5e-2, scores=2e-2, iou_mean=0.998, iou_min=0.99, boundary=1e-3),
}
"""By precision. Float32 rounding gives about 1e-6 on the grid; the shipped base's predicted IoUs
differ by 6e-7, 3e-4 and 3e-3."""
REPORT_NAME: Final = "comparison.json"
PAGE_NAME: Final = "comparison.html"


@dataclass(frozen=True)
class Comparison:
    """Measured differences between torch and the engines of an export.

    Attributes:
        precision: of the exported graphs; a key of `TOLERANCES`.
        grid: parity rows on random tensors, by engine.
        fidelity: mask fidelity on real images of each engine.
    """

    precision: str
    grid: Mapping[str, Sequence[Row]]
    fidelity: Sequence[Fidelity]

    def figures(self) -> dict[str, Any]:
        """Return the worst of the grid and the summary of the masks, by engine."""
        return {
            "grid": {engine: worst_by_output(rows) for engine, rows in self.grid.items()},
            "masks": {fidelity.engine: fidelity.summary() for fidelity in self.fidelity},
        }

    def write(self, json_file: Path, page_file: Path, verdict: str) -> None:
        """Write the report and the page, each atomically.

        Args:
            json_file: gets every row.
            page_file: gets the figures and the worst masks.
            verdict: passed, or the failed measure.
        """
        tolerance = asdict(TOLERANCES[self.precision])
        figures = self.figures()
        report = {
            "precision": self.precision,
            "verdict": verdict,
            "tolerance": tolerance,
            "measure": "largest absolute difference over the largest absolute value of torch",
            **figures,
            "grid_rows": {
                engine: [asdict(row) for row in rows] for engine, rows in self.grid.items()
            },
            "mask_rows": {
                fidelity.engine: [asdict(row) for row in fidelity.rows]
                for fidelity in self.fidelity
            },
        }
        write_atomic(json_file, (json.dumps(report, indent=1) + "\n").encode())
        title = f"Torch and the export in {self.precision}"
        page = comparison_page(title, verdict, tolerance, figures["grid"], self.fidelity)
        write_atomic(page_file, page.encode())


def require_fidelity(
    fidelity: Fidelity, precision: str, image_size: int, *, on_grid: bool = False
) -> None:
    """Raise if an engine's masks on real images are too far from torch's.

    Without a single stable mask nothing can be measured: that is accepted of float32 whose parity
    the grid has proved, and of nothing else.

    Args:
        fidelity: measured on real images.
        precision: a key of `TOLERANCES`.
        image_size: side S of the encoder's frame.
        on_grid: whether the engine was compared on random tensors as well.

    Raises:
        ExportError: names the failed measure and the worst mask.
    """
    tolerance, summary = TOLERANCES[precision], fidelity.summary()
    if not fidelity.counted:
        if precision == "fp32" and on_grid:
            return
        fix = "give --images of the kind that the model was trained on"
        raise ExportError.of(
            f"{fidelity.engine}, masks on real images",
            got="no mask that the model itself draws distinctly",
            expected="some to judge by",
            fix=f"{fix}, or export in fp32" if on_grid else fix,
        )
    worst = fidelity.worst[0].row
    for measure_name, got, expected, sign in (
        ("mean mask IoU", summary["iou_mean"], tolerance.iou_mean, 1),
        ("least mask IoU", summary["iou_min"], tolerance.iou_min, 1),
        (
            "contours' distance in pixels",
            summary["boundary_mean_max"],
            tolerance.boundary * image_size,
            -1,
        ),
        ("predicted IoUs' relative difference", summary["scores_max"], tolerance.scores, -1),
    ):
        # Negated, so that NaN fails.
        if not sign * got >= sign * expected:
            raise ExportError.of(
                f"{fidelity.engine}, {measure_name} over {len(fidelity.counted)} masks of real "
                "images",
                got=f"{got:.4f} (worst {worst.scene}, {worst.prompt}: IoU {worst.iou:.4f})",
                expected=f"at {'least' if sign > 0 else 'most'} {expected:.4f}",
                fix="look at the worst masks in the report, and export with another --precision",
            )


def write_accepted(
    comparison: Comparison, precisions: Sequence[str], image_size: int, folder: Path, out: Path
) -> None:
    """Write the report into an artifact's staging folder, or raise if a tolerance is exceeded.

    Args:
        comparison: measured differences.
        precisions: of each engine in `comparison.fidelity`; keys of `TOLERANCES`.
        image_size: side S of the encoder's frame.
        folder: staging folder; gets comparison.json and comparison.html.
        out: final path of the artifact; after a failure the page is at `OUT-rejected.html`.

    Raises:
        ExportError: names the failed measure and the worst mask.
    """
    rejected = out.with_name(f"{out.name}-rejected.html")
    try:
        for precision, fidelity in zip(precisions, comparison.fidelity, strict=True):
            on_grid = fidelity.engine in comparison.grid
            require_fidelity(fidelity, precision, image_size, on_grid=on_grid)
    except ExportError as error:
        comparison.write(folder / REPORT_NAME, rejected, str(error))
        raise
    comparison.write(folder / REPORT_NAME, folder / PAGE_NAME, "Within tolerance.")
    rejected.unlink(missing_ok=True)


def mask_iou_lines(summaries: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield a line of text for each engine whose masks were compared.

    Args:
        summaries: `Fidelity.summary` by engine.
    """
    for engine, summary in summaries.items():
        if summary["masks"]:
            yield (
                f"{engine}: mask IoU mean {summary['iou_mean']:.4f}, minimum "
                f"{summary['iou_min']:.4f} over {summary['masks']} masks"
            )
