"""Measure the served system: the real Triton and gateway under load, on loopback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.serving import classes, deadlines, followup, mixed, overload, scan
from benchmarks.serving.random_model import random_repository
from benchmarks.serving.report import write_report
from benchmarks.serving.stack import repository_of, service
from benchmarks.serving.verdict import Check, machine, write_verdict
from cpcsam.commands import ArgumentParser, count, exit_code_of, positive
from cpcsam.errors import ConfigError
from serving.gateway.limits import Limits

__all__ = ["main"]

PROG: Final = "python -m benchmarks.serving"
EXAMPLES: Final = """scenarios:
  mixed      64 clients, mixed images and prompts: every answer equals the one computed alone
  overload   twice the capacity: refusals, and bounded time for what is accepted
  followup   a repeated image is encoded once; with vit_b at 1024 pixels, how much faster it is
  deadlines  expired and cancelled requests leave at once and free their places
  classes    classes over gRPC score what training.evaluate_auto scores; AddClass and a restart
  scan       ports, closed interfaces, tokens and TLS
  report     only write report.md and the plots again

examples:
  python -m benchmarks.serving mixed overload deadlines
  python -m benchmarks.serving mixed --seconds 10 --clients 16 --out out/serving     a quick look
  python -m benchmarks.serving overload --max-queue 1
  python -m benchmarks.serving followup --model vit_b       needs 8 GB of memory, so run it alone
  python -m benchmarks.serving classes --bbbc038 /data/bbbc038v1

Each starts the whole service on free ports of 127.0.0.1, over a repository made from --base, and
stops it. It writes SCENARIO.json and, from all that are there, report.md into --out; the exit
status is 1 where something does not hold.
"""
SCENARIOS: Final = ("mixed", "overload", "followup", "deadlines", "classes", "scan")
Found = tuple[dict[str, Any], list[Check]]


def _mixed(options: argparse.Namespace) -> Found:
    with service(_repository(options), options.build, *mixed.PATIENT) as running:
        return mixed.run(running, options.clients, options.seconds)


def _overload(options: argparse.Namespace) -> Found:
    limit = ("--max-queue", str(options.max_queue))
    with service(_repository(options), options.build, *limit) as running:
        return overload.run(running, options.max_queue, options.seconds)


def _followup(options: argparse.Namespace) -> Found:
    repository = (
        _repository(options)
        if options.model == "vit_t"
        else random_repository(options.model, followup.IMAGE_SIZE, options.build / options.model)
    )
    with service(repository, options.build, *followup.PATIENT) as running:
        return followup.run(running, ratio=options.model != "vit_t")


def _deadlines(options: argparse.Namespace) -> Found:
    return deadlines.run(_repository(options), options.build, options.seconds)


def _classes(options: argparse.Namespace) -> Found:
    if options.bbbc038 is None:
        raise ConfigError.of(
            "--bbbc038", got="nothing", expected="the folder of BBBC038v1", fix="give it"
        )
    return classes.run(
        _repository(options), options.build, options.base, options.bbbc038, options.images
    )


def _scan(options: argparse.Namespace) -> Found:
    return scan.run(_repository(options), options.build)


RUNS: Final[dict[str, Callable[[argparse.Namespace], Found]]] = {
    "mixed": _mixed,
    "overload": _overload,
    "followup": _followup,
    "deadlines": _deadlines,
    "classes": _classes,
    "scan": _scan,
}


def _repository(options: argparse.Namespace) -> Path:
    return options.repository or repository_of(options.base, options.build)


def _name(scenario: str, options: argparse.Namespace) -> str:
    """Of the result; a variant has a file of its own."""
    if scenario == "overload" and options.max_queue != Limits.max_queue_s:
        return f"overload-queue-{options.max_queue:g}"
    if scenario == "followup" and options.model != "vit_t":
        return f"followup-{options.model}"
    return scenario


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("scenarios", nargs="+", choices=[*RUNS, "report"], metavar="SCENARIO")
    add("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR", help="to be served")
    text = "an exported repository (made from --base)"
    add("--repository", type=Path, metavar="DIR", help=text)
    add("--build", type=Path, default=Path("build/serving"), metavar="DIR", help="for repositories")
    add("--out", type=Path, default=Path("benchmarks/results/serving"), metavar="DIR")
    add("--seconds", type=positive, default=60.0, metavar="S", help="of load (%(default)s)")
    add("--clients", type=count, default=64, metavar="N", help="of mixed (%(default)s)")
    text = "of overload, seconds (%(default)s)"
    add("--max-queue", type=positive, default=Limits.max_queue_s, metavar="S", help=text)
    text = "of followup; vit_b has random weights (%(default)s)"
    add("--model", choices=("vit_t", "vit_b"), default="vit_t", help=text)
    add("--bbbc038", type=Path, metavar="DIR", help="of classes: folder of BBBC038v1")
    add("--images", type=count, metavar="N", help="of classes: only the first N of val.txt")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 where all holds, 1 where something does not, 2 after an error."""
    options = _parser().parse_args(arguments)
    missed: list[Check] = []

    def command() -> None:
        for scenario in options.scenarios:
            if scenario == "report":
                continue
            before = machine()
            figures, checks = RUNS[scenario](options)
            settings = {
                key: str(value) if isinstance(value, Path) else value
                for key, value in vars(options).items()
                if key in ("seconds", "clients", "max_queue", "model", "images")
            }
            name = _name(scenario, options)
            write_verdict(options.out, name, settings, before, figures, checks)
            missed.extend(check for check in checks if not check.holds)
        print(write_report(options.out), end="")

    return exit_code_of(command, PROG) or bool(missed)


if __name__ == "__main__":
    sys.exit(main())
