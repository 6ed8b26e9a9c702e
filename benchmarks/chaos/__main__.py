"""Kill the service's processes and attack it, on loopback, and see whether it holds.

scenarios:
  kill-steps    SIGKILL of each Python step of Triton, under the load of eight clients
  kill-triton   SIGKILL of Triton
  kill-replica  SIGKILL of one of two Tritons: no request fails
  kill-gateway  SIGKILL of the gateway
  corpus        a seeded corpus of hostile requests beside ordinary ones
  growth        memory of every process over as many ordinary requests

Examples:
  python -m benchmarks.chaos                                 all, with 10,000 requests each
  python -m benchmarks.chaos --quick                         a kill, and 300 requests of each kind
  python -m benchmarks.chaos --scenario corpus --requests 500 --seed 7
  python -m benchmarks.chaos --scenario corpus --families images fields
  python -m benchmarks.chaos --scenario corpus --only 23     one hostile request of the corpus

Each scenario starts a service of its own over a repository made from --base, on free ports of
127.0.0.1, and stops it; nothing else is ever attacked. The gateway's memory is capped. It writes
SCENARIO.json and, from all that are there, report.md into --out; the exit status is 1 if something
does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos import growth, hostility, kills
from benchmarks.chaos.hostile.corpus import FAMILIES
from benchmarks.common.output import OUT, add_report_option, publish
from benchmarks.serving.report import Check, machine, write_report, write_verdict
from benchmarks.serving.stack import repository_of
from cpcsam.commands import count, count_from_0, parser_of, run_command, until_interrupted
from cpcsam.model.base_checkpoint import base_digest

__all__ = ["main"]

PROG: Final = "python -m benchmarks.chaos"
REQUESTS: Final = 10_000
QUICK_REQUESTS: Final = 300
QUICK_ALONE_S: Final = 4.0
QUICK_PATIENCE_S: Final = 5.0
Result = tuple[dict[str, Any], list[Check]]


def _corpus(repository: Path, build: Path, args: argparse.Namespace) -> Result:
    requests = _requests(args)
    numbers = range(requests) if args.only is None else (args.only,)
    plan = hostility.CorpusPlan(tuple(numbers), args.seed, families=tuple(args.families))
    if args.quick:
        plan = replace(plan, alone_s=QUICK_ALONE_S, patience_s=QUICK_PATIENCE_S)
    return hostility.run(repository, build, plan)


RUNS: Final[dict[str, Callable[[Path, Path, argparse.Namespace], Result]]] = {
    "kill-steps": lambda repository, build, args: kills.kill_steps(
        repository, build, args.seed, args.quick
    ),
    "kill-triton": lambda repository, build, _: kills.kill_triton(repository, build),
    "kill-replica": lambda repository, build, _: kills.kill_replica(repository, build),
    "kill-gateway": lambda repository, build, _: kills.kill_gateway(repository, build),
    "corpus": _corpus,
    "growth": lambda repository, build, args: growth.run(repository, build, _requests(args)),
}
QUICK: Final = ("kill-steps", "corpus", "growth")


def _requests(args: argparse.Namespace) -> int:
    return int(args.requests or (QUICK_REQUESTS if args.quick else REQUESTS))


def _run(args: argparse.Namespace) -> int:
    missed: list[Check] = []
    done = False
    # SIGTERM as well must unwind, so that no server is left behind.
    with until_interrupted():
        repository = args.repository or repository_of(args.base, args.build)
        for scenario in args.scenario or (QUICK if args.quick else [*RUNS]):
            before = machine()
            figures, checks = RUNS[scenario](repository, args.build / scenario, args)
            settings = {"seed": args.seed, "requests": _requests(args), "quick": args.quick}
            write_verdict(args.out, scenario, settings, before, figures, checks)
            missed.extend(check for check in checks if not check.holds)
        base = None if args.repository else base_digest(args.base)
        report = write_report(args.out, "chaos", "The service under faults and hostile callers")
        publish(report, args.out / "report.md", args, base)
        done = True
    if not done:
        raise KeyboardInterrupt
    return int(bool(missed))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all holds, 1 if something does not, 2 after an error."""
    parser = parser_of(PROG, __doc__)
    add = parser.add_argument
    text = f"of {', '.join(RUNS)} (all; with --quick {', '.join(QUICK)})"
    add("--scenario", nargs="+", choices=[*RUNS], metavar="NAME", help=text)
    text = f"of corpus and of growth ({REQUESTS}, with --quick {QUICK_REQUESTS})"
    add("--requests", type=count, metavar="N", help=text)
    add("--quick", action="store_true", help="one killed step and few requests")
    add("--seed", type=count_from_0, default=0, metavar="N", help="of the corpus (%(default)s)")
    text = f"of the corpus: {', '.join(FAMILIES)} (all)"
    add("--families", nargs="+", choices=[*FAMILIES], default=[], metavar="NAME", help=text)
    add("--only", type=count_from_0, metavar="N", help="of the corpus: this number alone")
    text = "served (%(default)s)"
    add("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR", help=text)
    text = "an exported repository (made from --base)"
    add("--repository", type=Path, metavar="DIR", help=text)
    add("--build", type=Path, default=Path("build/chaos"), metavar="DIR", help="for repositories")
    add("--out", type=Path, default=OUT / "chaos", metavar="DIR", help="(%(default)s)")
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
