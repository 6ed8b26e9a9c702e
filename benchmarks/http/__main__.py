"""Command: measure the HTTP front before the real gateway and Triton, on loopback.

scenarios:
  latency    what the front adds to a follow-up click, beside the gateway by gRPC in the same run
  load       64 clients for a minute: no request is lost
  fuzz       requests that schemathesis generates: no answer of 5xx, none that breaks the document
  report     only write report.md again

Examples:
  python -m benchmarks.http latency load
  python -m benchmarks.http load --seconds 10 --clients 16 --repository build/repository
  python -m benchmarks.http fuzz --cases 2000

Each starts the whole service on free ports of 127.0.0.1, over a repository made from --base unless
--repository is given. It writes SCENARIO.json and, from all that are there, report.md into --out;
the exit status is 1 if something does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.common.output import OUT, add_report_option, publish
from benchmarks.http import fuzz, latency, load
from benchmarks.http.front import Front, running_front
from benchmarks.serving.report import Check, machine, write_report, write_verdict
from benchmarks.serving.stack import repository_of, service
from cpcsam.commands import ArgumentParser, count, count_from_0, parser_of, positive, run_command
from cpcsam.model.base_checkpoint import base_digest
from demo.commands import Service

__all__ = ["main"]

PROG: Final = "python -m benchmarks.http"
SCENARIOS: Final = ("latency", "load", "fuzz")
FEW_CLICKS: Final = ("--max-clicks", "64")
"""Grids of more, which schemathesis draws as well, would take minutes and are refused."""
TITLE: Final = "The HTTP front"


@contextmanager
def _front(args: argparse.Namespace, *options: str) -> Iterator[tuple[Service, Front]]:
    repository = args.repository or repository_of(args.base, args.build)
    args.out.mkdir(parents=True, exist_ok=True)
    classes = args.out / "classes"
    with (
        service(repository, args.build, "--classes", str(classes), *options) as running,
        running_front(running.gateway, args.out / "front.log") as front,
    ):
        yield running, front


def _measure(scenario: str, args: argparse.Namespace) -> tuple[dict[str, Any], list[Check]]:
    with _front(args, *(FEW_CLICKS if scenario == "fuzz" else ())) as (running, front):
        if scenario == "latency":
            return latency.run(running, front, args.clicks)
        if scenario == "load":
            return load.run(front, args.clients, args.seconds)
        return fuzz.run(front.url, args.cases, args.seed, (args.out / "fuzz.log").absolute())


def _parser(argv: Sequence[str] | None) -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    add = parser.add_argument
    add("scenarios", nargs="+", choices=[*SCENARIOS, "report"], metavar="SCENARIO")
    add("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR", help="to be served")
    text = "an exported repository (made from --base)"
    add("--repository", type=Path, metavar="DIR", help=text)
    add("--build", type=Path, default=Path("build/serving"), metavar="DIR", help="for repositories")
    add("--out", type=Path, default=OUT / "http", metavar="DIR", help="(%(default)s)")
    add("--clicks", type=count, default=300, metavar="N", help="of latency (%(default)s)")
    add("--seconds", type=positive, default=60.0, metavar="S", help="of load (%(default)s)")
    add("--clients", type=count, default=64, metavar="N", help="of load (%(default)s)")
    add("--cases", type=count, default=2000, metavar="N", help="of fuzz, about (%(default)s)")
    add("--seed", type=count_from_0, default=0, metavar="N", help="of fuzz (%(default)s)")
    add_report_option(parser, argv)
    return parser


def _run(args: argparse.Namespace) -> int:
    missed: list[Check] = []
    for scenario in args.scenarios:
        if scenario == "report":
            continue
        before = machine()
        figures, checks = _measure(scenario, args)
        settings = {key: getattr(args, key) for key in ("clicks", "seconds", "clients", "cases")}
        write_verdict(args.out, scenario, settings, before, figures, checks)
        missed.extend(check for check in checks if not check.holds)
    base = None if args.repository else base_digest(args.base)
    publish(write_report(args.out, "http", TITLE), args.out / "report.md", args, base)
    return int(bool(missed))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all holds, 1 if something does not, 2 after an error."""
    return run_command(_parser(argv), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
