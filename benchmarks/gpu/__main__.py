"""Measure accuracy, speed and memory on a GPU within some minutes, and write a report.

Examples:
  python -m benchmarks.gpu --out out/gpu                           everything, in 9 minutes
  python -m benchmarks.gpu --out out/gpu --stages encoder decoder  two stages
  python -m benchmarks.gpu --out out/gpu --device cpu --quick      try the code without a GPU

Every stage runs in a process of its own, at most for its cap, and appends what it measures to
results.jsonl; report.md and report.csv are written anew after each. A stage that fails or overruns
costs the others nothing, and the exit code is 0 all the same: the report names the reason.
docs/guides/gpu.md explains the figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.common.output import command_of
from benchmarks.gpu.process import RESULTS, Options, StageProcess, append
from benchmarks.gpu.report import read_results, report_of
from benchmarks.gpu.stage import Stage, grant
from benchmarks.gpu.stages import STAGES
from cpcsam.commands import parser_of, positive, run_command, until_interrupted
from cpcsam.errors import ConfigError
from reporting.run_report import current_provenance

__all__ = ["main", "run_stages"]

PROG: Final = "python -m benchmarks.gpu"
MINUTES: Final = 9.0


def run_stages(
    stages: Sequence[Stage], options: Options, budget_s: float, command: Sequence[str] = (PROG,)
) -> None:
    """Run stages one after the other, and write the report after each.

    Args:
        stages: in order.
        options: of the run; `out` exists.
        budget_s: seconds for all of them.
        command: for the report.
    """
    end = time.monotonic() + budget_s
    waiting: StageProcess | None = None
    status: dict[str, Any]
    try:
        for number, stage in enumerate(stages, start=1):
            process = waiting or StageProcess(stage, options)
            # It loads its libraries while this stage measures.
            waiting = StageProcess(stages[number], options) if stages[number:] else None
            seconds = grant(stage, stages[number:], end - time.monotonic())
            if seconds is None:
                process.stop()
                reason = f"{max(0, end - time.monotonic()):.0f} s were left"
                status = {
                    "stage": stage.name,
                    "status": "skipped",
                    "reason": reason,
                }
                append(options.out, status)
            else:
                status = process.run(seconds)
            _announce(status)
            _write_report(options, command)
    finally:
        if waiting:
            waiting.stop()


def _announce(status: Mapping[str, Any]) -> None:
    words = [f"{status['stage']}: {status['status']}"]
    words += [f"{status['seconds']} s"] if "seconds" in status else []
    words += [str(status["reason"])] if "reason" in status else []
    print(", ".join(words), file=sys.stderr, flush=True)


def _write_report(options: Options, command: Sequence[str]) -> str:
    report = report_of(read_results(options.out), options.quick)
    report.write(options.out, current_provenance(command))
    return report.body()


def _run(args: argparse.Namespace) -> None:
    if (args.out / RESULTS).exists():
        raise ConfigError.of(
            "--out",
            got=f"{args.out}, which has {RESULTS}",
            expected="a folder without results",
            fix="give another",
        )
    args.out.mkdir(parents=True, exist_ok=True)
    stages = [stage for stage in STAGES if not args.stages or stage.name in args.stages]
    options = Options(args.out, args.device or "", args.quick, args.images, args.bbbc038)
    with until_interrupted():
        run_stages(stages, options, 60 * args.minutes, args.command)
    print(_write_report(options, args.command), end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the results")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=[stage.name for stage in STAGES],
        metavar="STAGE",
        help=f"of {', '.join(stage.name for stage in STAGES)} (default: all)",
    )
    parser.add_argument(
        "--minutes", type=positive, default=MINUTES, metavar="N", help="in all (default: 9)"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="(default: the GPU where torch sees one)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the code")
    parser.add_argument("--images", type=Path, metavar="DIR", help="real images, besides ours")
    parser.add_argument(
        "--bbbc038", type=Path, metavar="PATH", help="the BBBC038v1 data set, if at hand"
    )
    parser.set_defaults(command=command_of(PROG, argv))
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
