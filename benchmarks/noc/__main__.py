r"""Count the clicks to a good mask (NoC), of SAM's fine-tunings, CPC-SAM and RITM.

Examples:
  python -m benchmarks.noc --data bbbc038v1=/data/bbbc038v1
  python -m benchmarks.noc --seeds 1 --minutes 0.1 --entities 10     a quick look, without nuclei
  python -m benchmarks.noc --data bbbc038v1=/data/bbbc038v1 --report-only

Settings and base are those of benchmarks/recipes/comparison.yaml. Results are kept in --out by the
digest of their configuration: an interrupted benchmark resumes, and a changed one runs again.
Minutes are CPU minutes of training of a run; --report-only needs the options of the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.job_cache import missing, results_of, run_jobs
from benchmarks.common.output import OUT, add_report_option, publish
from benchmarks.comparison.data import add_data_option
from benchmarks.noc.jobs import SYSTEMS, jobs_of, run_job
from benchmarks.noc.report import iou_plot, report_of
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, count, parser_of, positive, run_command
from cpcsam.errors import DataError

__all__ = ["main"]

PROG = "python -m benchmarks.noc"


def _run(args: argparse.Namespace) -> None:
    jobs = jobs_of(args)
    if not args.report_only:
        run_jobs(missing(jobs), run_job, args.jobs)
    runs = results_of(jobs)
    if not runs:
        raise DataError.of(
            str(args.out),
            got="no results of these options",
            expected="those of a run",
            fix="leave --report-only out",
        )
    write_atomic(args.out / "clicks.png", iou_plot(runs))
    models = (run["record"]["method"].get("model") for run in runs)
    bases = [model["base"] for model in models if model is not None]
    publish(report_of(runs), args.out / "report.md", args, bases[0] if bases else None)


def _parser(argv: Sequence[str] | None) -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    add_data_option(parser)
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        default=tuple(SYSTEMS),
        metavar="NAME",
        help=f"to train and click: {', '.join(SYSTEMS)} (default: all)",
    )
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="(default: 3)")
    parser.add_argument(
        "--minutes",
        type=positive,
        default=1.5,
        metavar="M",
        help="of training a run (default: 1.5)",
    )
    parser.add_argument(
        "--steps",
        type=count,
        metavar="N",
        help="of training a run instead of minutes; steps of the systems differ in their time",
    )
    parser.add_argument(
        "--entities",
        type=count,
        default=100,
        metavar="N",
        help="of a setting to click, evenly spread (default: 100)",
    )
    parser.add_argument(
        "--jobs",
        type=count,
        default=2,
        metavar="N",
        help="at once, on one core each (default: 2); 1 uses all cores, and the GPU",
    )
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.add_argument(
        "--out", type=Path, default=OUT / "noc", metavar="DIR", help="(default: %(default)s)"
    )
    add_report_option(parser, argv)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command(_parser(argv), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
