"""Command: compare exported graphs with torch in full size, on random weights.

python -m export.check_parity --model-size vit_b --image-size 1024

An untrained model, its zero-initialised weights filled with noise, is exported in float32, and
every graph is compared with torch on random images, padded prompts, boxes and mask prompts. The
grid of shapes is smaller than the export's, since vit_b at 1024 pixels takes gigabytes and minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from cpcsam.commands import parser_of, run_command
from cpcsam.contract import IMAGE_SIZES, MODEL_SIZES
from cpcsam.model.build_sam import build_sam
from cpcsam.model.capl import FULL_CAPL, CaPL
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.accuracy.comparison import TOLERANCES
from export.accuracy.parity_grid import Row, compare_on_grid, fill_with_noise, worst_by_output
from export.accuracy.runners import OnnxRunner, TorchRunner
from export.graphs.precisions import trace_graphs

__all__ = ["check_parity", "main"]

PROG: Final = "python -m export.check_parity"
BATCHES: Final = (1, 2)
PROMPTS: Final = (1, 3)
POINTS: Final = (1, 2, 7)


def check_parity(model_size: str, image_size: int) -> list[Row]:
    """Export an untrained model in float32 and compare it with torch on a parity grid.

    Args:
        model_size: one of `MODEL_SIZES`.
        image_size: side S, one of `IMAGE_SIZES`.

    Returns:
        A row for every output at every shape.

    Raises:
        ExportError: an output is too far from torch's; names graph, output and shape.
    """
    torch.manual_seed(0)
    model = CpcSam(build_sam(model_size, image_size), CaPL(FULL_CAPL))
    fill_with_noise(model, seed=1)
    fused = fuse(model.eval())
    with TemporaryDirectory(prefix="cpcsam-") as folder:
        trace_graphs(fused, Path(folder), "fp32")
        return compare_on_grid(
            TorchRunner(fused),
            OnnxRunner(Path(folder), "fp32"),
            image_size,
            TOLERANCES["fp32"].grid,
            batches=BATCHES,
            prompts=PROMPTS,
            points=POINTS,
        )


def _check(args: argparse.Namespace) -> None:
    rows = check_parity(args.model_size, args.image_size)
    for name, difference in worst_by_output(rows).items():
        shapes = sum(f"{row.graph}/{row.output}" == name for row in rows)
        print(f"{name:45} {difference:.1e} of its largest value, over {shapes} shapes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, 0 if all outputs are within tolerance."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument(
        "--model-size", choices=MODEL_SIZES, default="vit_b", help="default: %(default)s"
    )
    parser.add_argument(
        "--image-size", type=int, choices=IMAGE_SIZES, default=1024, help="default: %(default)s"
    )
    return run_command(parser, _check, argv)


if __name__ == "__main__":
    sys.exit(main())
