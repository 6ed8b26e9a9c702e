"""Measure what calibration adds on unseen classes with careless prompts.

Examples:
  python -m benchmarks.calibration                                 core, then ablations
  python -m benchmarks.calibration --seeds 2 --minutes 0.2         a quick look
  python -m benchmarks.calibration --bbbc038 /data/bbbc038v1       fluorescence to tissue as well
  python -m benchmarks.calibration --scenes vector-art             scenes of drawings
  python -m benchmarks.calibration --steps 261                     the same on a busy machine
  python -m benchmarks.calibration --development --steps 261       on the development split
  python -m benchmarks.calibration --report-only

Results are kept in --out by the digest of their configuration: an interrupted benchmark resumes,
and a changed one runs again. Minutes are CPU minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.calibration.arms import NOISE
from benchmarks.calibration.jobs import context_of, jobs_of, run_job
from benchmarks.calibration.report import write_report
from benchmarks.calibration.runs import dice_by_prompts
from benchmarks.calibration.splits import development_split, read_split
from benchmarks.common.job_cache import digest_of, missing, run_in_processes
from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.commands import (
    ArgumentParser,
    count,
    count_from_0,
    parser_of,
    positive,
    run_command,
)
from cpcsam.model.base_checkpoint import load_base

__all__ = ["main"]

PROG = "python -m benchmarks.calibration"


def _write_context(args: argparse.Namespace) -> None:
    """Score the base itself and record the configuration that all jobs share."""
    path = args.out / "context.json"
    shared = context_of(args)
    digest = digest_of(shared)
    if path.exists() and json.loads(path.read_text()).get("digest") == digest:
        return
    # Test samples are the same for every seed and number of shots.
    split = (
        development_split(0, 1) if args.development else read_split(0, 1, drawings=args.drawings)
    )
    model = load_base(args.base)
    context = {
        "base_sha256": shared["base"],
        "target": dice_by_prompts(model, split.target, args.strengths),
        "base": dice_by_prompts(model, split.base, [1.0]),
        "minutes": shared["minutes"],
        "steps": shared["steps"],
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "torch": torch.__version__,
        "scenes": args.scenes,
        "digest": digest,
    }
    write_json(path, context)


def _run(args: argparse.Namespace) -> None:
    drawn = args.scenes == "vector-art"
    if not drawn:
        args.drawings = None
    if args.out is None:
        name = "calibration-vector-art" if drawn else "calibration"
        args.out = OUT / (name + "-development" * args.development)
    if not args.report_only:
        _write_context(args)
        run_in_processes(missing(jobs_of(args)), run_job, args.jobs)
    report = write_report(args.out)
    base = json.loads((args.out / "context.json").read_text())["base_sha256"]
    publish(report, args.out / "report.md", args, base)


def _parser(argv: Sequence[str] | None) -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument("--bbbc038", type=Path, metavar="DIR", help="folder of BBBC038v1")
    parser.add_argument(
        "--scenes",
        choices=("confounded", "vector-art"),
        default="confounded",
        help="to train and test on (default: confounded)",
    )
    parser.add_argument(
        "--drawings",
        type=Path,
        default=Path("/usr/share/openclipart"),
        metavar="DIR",
        help="of the vector-art scenes (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--minutes",
        type=positive,
        default=2.0,
        metavar="M",
        help="of training a run (default: 2)",
    )
    parser.add_argument(
        "--steps",
        type=count,
        metavar="N",
        help="on a busy machine, instead of minutes: N steps of the arm `groups`, and of the "
        "others as many as take its time, measured in turns",
    )
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=NOISE,
        metavar="S",
        help="of the careless prompts that target classes are scored with, 1 among them "
        "(default: 0 0.5 1 1.5)",
    )
    parser.add_argument(
        "--curve",
        type=count_from_0,
        default=6,
        metavar="N",
        help="points on the training curves of seed 0 (default: 6)",
    )
    parser.add_argument(
        "--development",
        action="store_true",
        help="train and score on the split on which methods are developed",
    )
    parser.add_argument("--core-only", action="store_true", help="leave the ablations out")
    parser.add_argument(
        "--arms", nargs="+", metavar="NAME", help="run only these arms (default: all)"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at once (default: 2)")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"(default: {OUT}/calibration, or that of the options)",
    )
    add_report_option(parser, argv)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command(_parser(argv), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
