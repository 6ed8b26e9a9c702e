"""Command: prove that exported graphs compute what torch does, in full size and without weights.

python -m export.check_parity --model-size vit_b --image-size 1024

An untrained model, its zeros filled with noise, is exported in float32, and every graph is compared
with torch on random images, prompts with padding, boxes and mask prompts. The grid of shapes is
smaller than the export's, as vit_b at 1024 pixels takes gigabytes and minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.contract import IMAGE_SIZES, MODEL_SIZES
from cpcsam.model.build_sam import build_sam
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.accuracy.parity_grid import Row, compare_on_grid, worst_by_output
from export.accuracy.random_weights import fill_with_noise
from export.accuracy.runners import OnnxRunner, TorchRunner
from export.check_tensorrt import trace_graphs
from export.compare import TOLERANCES

__all__ = ["check_parity", "main"]

PROG: Final = "python -m export.check_parity"
BATCHES: Final = (1, 2)
PROMPTS: Final = (1, 3)
POINTS: Final = (1, 2, 7)


def check_parity(model_size: str, image_size: int) -> list[Row]:
    """Export an untrained model in float32 and compare it with torch.

    Returns:
        Every output at every shape.

    Raises:
        ExportError: an output is too far from torch's; names graph, output and shape.
    """
    torch.manual_seed(0)
    model = CpcSam(build_sam(model_size, image_size), CaPL(CaplConfig()))
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
    """Run the command; 0 when all agree, 2 after an error, told in one line."""
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
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
