"""Measure time and peak memory of vit_b's encoder by how many queries attend at once."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, count, exit_code_of
from cpcsam.contract import IMAGE_ENCODER
from cpcsam.errors import ConfigError
from cpcsam.model.build_sam import build_sam
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.graphs.traceable import make_traceable
from export.graphs.tracing import onnx_from_torch

__all__ = ["Row", "main"]

PROG = "python -m benchmarks.attention"
EXAMPLES = """examples:
  python -m benchmarks.attention                                  vit_b at 1024 pixels, 3 rounds
  python -m benchmarks.attention --image-size 512 --rounds 1      a quick look

Every variant runs in processes of its own, whose peak of resident memory counts loading too. The
variants take turns, twice; times are CPU seconds of the process, so other programs hardly disturb
them. Weights are random: they change neither time nor memory.
"""
TURNS = 2
OFFICIAL = "official"


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        variant: `official`, or the queries of one block.
        arena: whether ONNX Runtime keeps freed memory.
        cpu_s: CPU seconds a call, the least of all rounds.
        cpu_median_s: likewise, the median.
        wall_s: seconds a call, the least of all rounds.
        rss_peak_gb: peak resident memory of the process, 10⁹ bytes, the largest of all turns.
    """

    variant: str
    arena: bool
    cpu_s: float
    cpu_median_s: float
    wall_s: float
    rss_peak_gb: float


def _export(model_size: str, image_size: int, queries: Sequence[int], folder: Path) -> list[Path]:
    """Write the official encoder and one for each number of queries."""
    torch.manual_seed(0)
    model = fuse(CpcSam(build_sam(model_size, image_size)))
    forms = {OFFICIAL: model} | {str(count): make_traceable(model, count) for count in queries}
    files = []
    for variant, form in tqdm(forms.items(), desc="export"):
        file = folder / f"{variant}.onnx"
        onnx_from_torch(form, IMAGE_ENCODER, file, {})
        files.append(file)
    return files


def _measure(files: Sequence[Path], options: argparse.Namespace) -> list[Row]:
    variants = [(file, arena) for file in files for arena in (True, False)]
    found: dict[tuple[Path, bool], list[dict[str, list[float] | float]]] = {}
    for variant in tqdm(variants * TURNS, desc="measure"):
        file, arena = variant
        words = [str(file), *map(str, (options.image_size, options.rounds, options.threads))]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.micro.ort_process", *words, str(int(arena))],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ConfigError.of(
                f"{file.stem} of {options.image_size} pixels",
                got=f"exit status {done.returncode} ({' '.join(done.stderr.split())[-200:]})",
                expected="a measurement",
                fix="choose a smaller --image-size, or free memory",
            )
        found.setdefault(variant, []).append(json.loads(done.stdout))
    return [_row(file, arena, turns) for (file, arena), turns in found.items()]


def _row(file: Path, arena: bool, turns: Sequence[dict[str, list[float] | float]]) -> Row:
    cpu, wall = (np.ravel([turn[name] for turn in turns]) for name in ("cpu_s", "wall_s"))
    return Row(
        file.stem,
        arena,
        float(cpu.min()),
        float(np.median(cpu)),
        float(wall.min()),
        float(np.max([turn["rss_peak_gb"] for turn in turns])),
    )


def _table(rows: Sequence[Row]) -> str:
    fastest = min(row.cpu_s for row in rows)
    lines = [
        "| queries at once | arena | CPU s a call | of the fastest | median | peak GB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.variant} | {'on' if row.arena else 'off'} | {row.cpu_s:.2f} "
        f"| {row.cpu_s / fastest:.2f} | {row.cpu_median_s:.2f} | {row.rss_peak_gb:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--model-size", default="vit_b", help="(default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=1024, help="(default: %(default)s)")
    parser.add_argument(
        "--queries",
        type=count,
        nargs="+",
        default=[4096, 1024, 512, 256],
        metavar="N",
        help="at once (default: 4096 1024 512 256)",
    )
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="(default: 3)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="(default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/attention"), metavar="DIR"
    )
    options = parser.parse_args(arguments)

    def command() -> None:
        with TemporaryDirectory() as folder:
            files = _export(options.model_size, options.image_size, options.queries, Path(folder))
            rows = _measure(files, options)
        threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
        report = {
            "model_size": options.model_size,
            "image_size": options.image_size,
            "machine": f"{platform.machine()}, {threads}",
            "onnxruntime": onnxruntime.__version__,
            "rounds": TURNS * options.rounds,
            "rows": [asdict(row) for row in rows],
        }
        write_atomic(options.out / "attention.json", (json.dumps(report, indent=2) + "\n").encode())
        write_atomic(options.out / "attention.md", _table(rows).encode())
        print(_table(rows), end="")

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
