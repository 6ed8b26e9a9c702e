"""Measure time and peak memory of vit_b's encoder by its attention's blocks, and in int8.

Examples:
  python -m benchmarks.attention                                  vit_b at 1024 pixels, 3 rounds
  python -m benchmarks.attention --image-size 512 --rounds 1      a quick look
  python -m benchmarks.attention --queries 1024 --int8            in int8 as well

Every variant runs in processes of its own, whose peak of resident memory counts loading too. The
variants take turns, twice; times are CPU seconds of the process, so other programs hardly disturb
them. Weights are random: they change neither time nor memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from tqdm import tqdm

from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.commands import count, parser_of, run_command
from cpcsam.contract import IMAGE_ENCODER
from cpcsam.errors import ConfigError
from cpcsam.model.build_sam import build_sam
from cpcsam.model.fusion import FusedCpcSam, fuse
from cpcsam.model.sam import CpcSam
from export.graphs.attention import BlockwiseAttention
from export.graphs.int8 import first_blocks, quantize_encoder
from export.graphs.traceable import make_traceable
from export.graphs.tracing import onnx_from_torch, save
from reporting.run_report import RunReport, Table, machine_of
from reporting.tables import Cell

__all__ = ["Row", "main", "report_of"]

PROG = "python -m benchmarks.attention"
TURNS = 2
OFFICIAL = "official"


@dataclass(frozen=True)
class Row:
    """Measurement of a variant.

    Attributes:
        variant: `official`, the queries of one block, or the block from which on it is in int8.
        arena: whether ONNX Runtime keeps freed memory.
        cpu_s: CPU seconds a call, minimum over all rounds.
        cpu_median_s: CPU seconds a call, median over all rounds.
        wall_s: wall-clock seconds a call, minimum over all rounds.
        rss_peak_gb: peak resident memory of the process, 10⁹ bytes, maximum over all turns.
    """

    variant: str
    arena: bool
    cpu_s: float
    cpu_median_s: float
    wall_s: float
    rss_peak_gb: float


def _export(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Write the official encoder, one for each number of queries, and those in int8."""
    torch.manual_seed(0)
    model = fuse(CpcSam(build_sam(args.model_size, args.image_size)))
    forms: dict[str, FusedCpcSam] = {OFFICIAL: model}
    for chunk in args.queries:
        forms[str(chunk)] = make_traceable(model, partial(BlockwiseAttention, queries=chunk))
    files = []
    for variant, form in tqdm(forms.items(), desc="export"):
        file = folder / f"{variant}.onnx"
        onnx_from_torch(form, IMAGE_ENCODER, file, {})
        files.append(file)
    if args.int8:
        # The blocks' time does not depend on the weights, so they are not smoothed.
        file = folder / "exported.onnx"
        onnx_from_torch(make_traceable(model), IMAGE_ENCODER, file, {})
        encoder = onnx.load(file)
        for first in first_blocks(encoder):
            files.append(folder / f"int8 from block {first}.onnx")
            save(quantize_encoder(encoder, first), files[-1])
    return files


def _measure(files: Sequence[Path], args: argparse.Namespace) -> list[Row]:
    variants = [(file, arena) for file in files for arena in (True, False)]
    turns_of: dict[tuple[Path, bool], list[dict[str, list[float] | float]]] = {}
    # In turns, so that a machine that becomes slower slows all variants alike.
    for variant in tqdm(variants * TURNS, desc="measure"):
        file, arena = variant
        arguments = [str(file), *map(str, (args.image_size, args.rounds, args.threads))]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.common.ort_process", *arguments, str(int(arena))],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ConfigError.of(
                f"{file.stem} of {args.image_size} pixels",
                got=f"exit status {done.returncode} ({' '.join(done.stderr.split())[-200:]})",
                expected="a measurement",
                fix="choose a smaller --image-size, or free memory",
            )
        turns_of.setdefault(variant, []).append(json.loads(done.stdout))
    return [_row(file, arena, turns) for (file, arena), turns in turns_of.items()]


def _row(file: Path, arena: bool, turns: Sequence[dict[str, list[float] | float]]) -> Row:
    cpu, wall = (np.ravel([turn[name] for turn in turns]) for name in ("cpu_s", "wall_s"))
    return Row(
        file.stem,
        arena,
        # The minimum is what other programs disturbed least.
        float(cpu.min()),
        float(np.median(cpu)),
        float(wall.min()),
        float(np.max([turn["rss_peak_gb"] for turn in turns])),
    )


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result."""
    fastest = min(row["cpu_s"] for row in result["rows"])
    heads = [
        "queries per block, or int8",
        "arena",
        "CPU s a call",
        "of the fastest",
        "median",
        "peak GB",
    ]
    rows = [
        [
            row["variant"],
            "on" if row["arena"] else "off",
            *(
                Cell(figure, decimals=2)
                for figure in (
                    row["cpu_s"],
                    row["cpu_s"] / fastest,
                    row["cpu_median_s"],
                    row["rss_peak_gb"],
                )
            ),
        ]
        for row in result["rows"]
    ]
    note = (
        f"{result['model_size']} at {result['image_size']} pixels in ONNX Runtime "
        f"{result['onnxruntime']}, {result['rounds']} rounds, {result['machine']}."
    )
    return RunReport(
        "attention", "Memory of attention in the image encoder", note, [Table("", heads, rows)]
    )


def _run(args: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder:
        files = _export(args, Path(folder))
        rows = _measure(files, args)
    result = {
        "model_size": args.model_size,
        "image_size": args.image_size,
        "machine": f"{machine_of()}, {args.threads} thread{'s' if args.threads > 1 else ''}",
        "onnxruntime": onnxruntime.__version__,
        "rounds": TURNS * args.rounds,
        "rows": [asdict(row) for row in rows],
    }
    write_json(args.out / "attention.json", result)
    publish(report_of(result), args.out / "attention.md", args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--model-size", default="vit_b", help="(default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=1024, help="(default: %(default)s)")
    parser.add_argument(
        "--queries",
        type=count,
        nargs="+",
        default=[4096, 1024, 512, 256],
        metavar="N",
        help="of an attention block (default: 4096 1024 512 256)",
    )
    text = "measure it in int8 as well"
    parser.add_argument("--int8", action="store_true", help=text)
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="(default: 3)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="(default: 1)")
    parser.add_argument(
        "--out", type=Path, default=OUT / "attention", metavar="DIR", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
