"""Measure the served system: the real Triton and gateway under load, on loopback.

scenarios:
  mixed      64 clients, mixed images and prompts: every answer equals the one computed alone
  overload   twice the capacity: refusals, and bounded time for accepted requests
  followup   a repeated image is encoded once; with vit_b at 1024 pixels, how much faster it is
  deadlines  expired and cancelled requests leave at once and free their permits; 64 clients with
             deadlines of 10, 3 and 1 s get most of the capacity; with vit_b at 1024 pixels,
             8 clients are answered in time or refused at once
  classes    classes over gRPC score what training.evaluate_auto scores; AddClass and a restart
  scan       ports, closed interfaces, tokens and TLS
  report     only write report.md and the plots again

Examples:
  python -m benchmarks.serving mixed overload deadlines
  python -m benchmarks.serving mixed --seconds 10 --clients 16 --out out/serving     a quick look
  python -m benchmarks.serving overload --max-queue 1
  python -m benchmarks.serving followup deadlines --model vit_b   needs 8 GB of memory: run it alone
  python -m benchmarks.serving classes --bbbc038 /data/bbbc038v1

Each starts the whole service on free ports of 127.0.0.1, over a repository made from --base, and
stops it. It writes SCENARIO.json and, from all that are there, report.md into --out; the exit
status is 1 if something does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.common.output import OUT, add_report_option, publish
from benchmarks.serving import classes, deadlines, followup, mixed, overload, scan
from benchmarks.serving.goodput import measure_slow_model
from benchmarks.serving.report import Check, machine, write_report, write_verdict
from benchmarks.serving.stack import random_repository, repository_of, service
from cpcsam.commands import ArgumentParser, count, parser_of, positive, run_command
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import base_digest
from serving.gateway.limits import Limits

__all__ = ["main"]

PROG: Final = "python -m benchmarks.serving"
SCENARIOS: Final = ("mixed", "overload", "followup", "deadlines", "classes", "scan")
Result = tuple[dict[str, Any], list[Check]]


def _mixed(args: argparse.Namespace) -> Result:
    with service(_repository(args), args.build, *mixed.PATIENT) as running:
        return mixed.run(running, args.clients, args.seconds)


def _overload(args: argparse.Namespace) -> Result:
    limit = ("--max-queue", str(args.max_queue))
    with service(_repository(args), args.build, *limit) as running:
        return overload.run(running, args.max_queue, args.seconds)


def _followup(args: argparse.Namespace) -> Result:
    repository = _repository(args) if args.model == "vit_t" else _random_repository(args)
    with service(repository, args.build, *followup.PATIENT) as running:
        return followup.run(running, ratio=args.model != "vit_t")


def _deadlines(args: argparse.Namespace) -> Result:
    if args.model == "vit_t":
        return deadlines.run(_repository(args), args.build, args.seconds)
    with service(_random_repository(args), args.build) as running:
        return measure_slow_model(running, args.seconds)


def _classes(args: argparse.Namespace) -> Result:
    if args.bbbc038 is None:
        raise ConfigError.of(
            "--bbbc038", got="nothing", expected="the folder of BBBC038v1", fix="give it"
        )
    return classes.run(_repository(args), args.build, args.base, args.bbbc038, args.images)


def _scan(args: argparse.Namespace) -> Result:
    return scan.run(_repository(args), args.build)


RUNS: Final[dict[str, Callable[[argparse.Namespace], Result]]] = {
    "mixed": _mixed,
    "overload": _overload,
    "followup": _followup,
    "deadlines": _deadlines,
    "classes": _classes,
    "scan": _scan,
}


def _repository(args: argparse.Namespace) -> Path:
    return args.repository or repository_of(args.base, args.build)


def _random_repository(args: argparse.Namespace) -> Path:
    return random_repository(args.model, followup.IMAGE_SIZE, args.build / args.model)


def _name(scenario: str, args: argparse.Namespace) -> str:
    """Name of the result's file; a variant of a scenario has a file of its own."""
    if scenario == "overload" and args.max_queue != Limits.max_queue_s:
        return f"overload-queue-{args.max_queue:g}"
    if scenario in ("followup", "deadlines") and args.model != "vit_t":
        return f"{scenario}-{args.model}"
    return scenario


def _parser(argv: Sequence[str] | None) -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    add = parser.add_argument
    add("scenarios", nargs="+", choices=[*RUNS, "report"], metavar="SCENARIO")
    add("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR", help="to be served")
    text = "an exported repository (made from --base)"
    add("--repository", type=Path, metavar="DIR", help=text)
    add("--build", type=Path, default=Path("build/serving"), metavar="DIR", help="for repositories")
    add("--out", type=Path, default=OUT / "serving", metavar="DIR", help="(%(default)s)")
    add("--seconds", type=positive, default=60.0, metavar="S", help="of load (%(default)s)")
    add("--clients", type=count, default=64, metavar="N", help="of mixed (%(default)s)")
    text = "of overload, seconds (%(default)s)"
    add("--max-queue", type=positive, default=Limits.max_queue_s, metavar="S", help=text)
    text = "of followup and deadlines; vit_b has random weights (%(default)s)"
    add("--model", choices=("vit_t", "vit_b"), default="vit_t", help=text)
    add("--bbbc038", type=Path, metavar="DIR", help="of classes: folder of BBBC038v1")
    add("--images", type=count, metavar="N", help="of classes: only the first N of val.txt")
    add_report_option(parser, argv)
    return parser


def _run(args: argparse.Namespace) -> int:
    missed: list[Check] = []
    for scenario in args.scenarios:
        if scenario == "report":
            continue
        before = machine()
        figures, checks = RUNS[scenario](args)
        settings = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(args).items()
            if key in ("seconds", "clients", "max_queue", "model", "images")
        }
        write_verdict(args.out, _name(scenario, args), settings, before, figures, checks)
        missed.extend(check for check in checks if not check.holds)
    base = None if args.repository else base_digest(args.base)
    publish(write_report(args.out), args.out / "report.md", args, base)
    return int(bool(missed))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all holds, 1 if something does not, 2 after an error."""
    return run_command(_parser(argv), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
