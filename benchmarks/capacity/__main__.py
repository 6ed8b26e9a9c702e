"""Plan capacity: measure service times, simulate clusters, compare both on one machine.

commands:
  measure    run the service on loopback and measure what requests take alone and under load
  simulate   simulate clusters of any size from a file of service times
  validate   measure, simulate the same loads, and bound the errors; exit status 1 beyond 20 %

Examples:
  python -m benchmarks.capacity validate --report                     7 minutes on an idle machine
  python -m benchmarks.capacity measure --rounds 1
  python -m benchmarks.capacity simulate --rate 10000 --gpus 200 --gateways 40 --price 2.5
  python -m benchmarks.capacity simulate --rate 10000 --gpus 120 160 200 --gateways 40 --seconds 10
  python -m benchmarks.capacity simulate --times out/benchmarks/capacity/times.json --rate 2 4 8

`simulate` takes service times from --times; those that it takes by default are assumed, not
measured. With several rates or numbers of GPUs it simulates each combination, and plots latency
over load and cost over replicas into --out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.capacity.cluster import Cluster, ClusterSize, summary
from benchmarks.capacity.measure import measure
from benchmarks.capacity.report import curves_plot, simulations_report, validation_report
from benchmarks.capacity.rounds import Measured
from benchmarks.capacity.service_times import read_times
from benchmarks.capacity.validate import checks_of, compare, times_of
from benchmarks.capacity.workload import Sessions
from benchmarks.common.output import OUT, add_report_option, publish, write_json
from benchmarks.serving.report import machine
from benchmarks.serving.stack import repository_of, service
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, count, parser_of, positive, run_command
from cpcsam.model.base_checkpoint import base_digest
from reporting.run_report import machine_of
from serving.gateway.limits import Limits

__all__ = ["main"]

PROG: Final = "python -m benchmarks.capacity"
ASSUMED: Final = Path(__file__).with_name("assumed_gpu.json")
WARM_SHARE: Final = 0.1
"""Share of a simulation that is not counted, since its queues begin empty."""
QUICK: Final = 0.25
"""Factor of the duration of loads."""
HOUR_S: Final = 3600.0


def _parser(argv: Sequence[str] | None) -> ArgumentParser:
    after_command = (sys.argv[1:] if argv is None else argv)[1:]
    parser = parser_of(PROG, __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, work in (("measure", _measure), ("validate", _validate)):
        command = commands.add_parser(name, prog=f"{PROG} {name}")
        add = command.add_argument
        add("--rounds", type=count, default=6, metavar="N", help="(%(default)s)")
        add("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR", help="to be served")
        add(
            "--build", type=Path, default=Path("build/serving"), metavar="DIR", help="(%(default)s)"
        )
        add("--quick", action="store_true", help="shorter loads, to try the command")
        _add_out(command)
        add_report_option(command, after_command)
        command.set_defaults(work=work)
    command = commands.add_parser("simulate", prog=f"{PROG} simulate")
    add = command.add_argument
    add("--times", type=Path, default=ASSUMED, metavar="FILE", help="(%(default)s)")
    text = "mean requests a second (%(default)s)"
    add("--rate", type=positive, nargs="+", default=[100.0], metavar="N", help=text)
    text = "replicas, one GPU each (%(default)s)"
    add("--gpus", type=count, nargs="+", default=[4], metavar="N", help=text)
    add("--gateways", type=count, default=1, metavar="N", help="(%(default)s)")
    add("--seconds", type=positive, default=60.0, metavar="S", help="simulated (%(default)s)")
    text = "mean requests about an image (%(default)s)"
    add("--clicks", type=positive, default=Sessions.clicks, metavar="N", help=text)
    text = "mean seconds between these (%(default)s)"
    add("--think", type=positive, default=Sessions.think_s, metavar="S", help=text)
    text = "send requests about an image to any gateway, not to one"
    add("--no-affinity", action="store_true", help=text)
    text = "of each gateway (%(default)s)"
    add("--cache-bytes", type=count, default=Limits.cache_bytes, metavar="N", help=text)
    add("--max-in-flight", type=count, default=Limits.max_in_flight, metavar="N", help=text)
    text = "of a GPU for an hour, in any currency (%(default)s)"
    add("--price", type=positive, default=1.0, metavar="P", help=text)
    text = "of a gateway for an hour (%(default)s)"
    add("--gateway-price", type=positive, default=0.05, metavar="P", help=text)
    add("--seed", type=int, default=0, metavar="N", help="(%(default)s)")
    _add_out(command)
    add_report_option(command, after_command)
    command.set_defaults(work=_simulate)
    return parser


def _add_out(command: argparse.ArgumentParser) -> None:
    text = "(%(default)s)"
    command.add_argument("--out", type=Path, default=OUT / "capacity", metavar="DIR", help=text)


def _measured(args: argparse.Namespace) -> Measured:
    repository = repository_of(args.base, args.build)
    with service(repository, args.build) as running:
        measured = measure(running, args.rounds, QUICK if args.quick else 1.0)
    source = f"measured alone on {machine_of()}, base {base_digest(args.base)[:12]}"
    times = times_of(measured, measured.rounds, source)
    write_json(args.out / "times.json", times.document())
    print(f"wrote {args.out / 'times.json'}", file=sys.stderr)
    return measured


def _measure(args: argparse.Namespace) -> int:
    _measured(args)
    return 0


def _validate(args: argparse.Namespace) -> int:
    before = machine()["load_average"][0]
    measured = _measured(args)
    figures = compare(measured)
    checks = checks_of(figures)
    times = times_of(measured, measured.rounds, "")
    (by_requests,) = times.processors.values()
    assert isinstance(by_requests, Mapping)
    cores = ", ".join(f"{cores:.2f} ({clients} clients)" for clients, cores in by_requests.items())
    further = ", ".join(
        f"{stage.factors[2] - 1:.2f} ({name})"
        for name, stage in times.stages.items()
        if stage.factors
    )
    after = machine()["load_average"][0]
    notes = (
        f"{args.rounds} rounds; load average {before} before, {after} after; "
        f"capacity of the cores {cores}; a further call of a batch takes {further} of one alone."
    )
    report = validation_report(measured, times, figures, checks, notes)
    publish(report, args.out / "report.md", args, base_digest(args.base))
    return int(not all(check.holds for check in checks))


def _simulate(args: argparse.Namespace) -> int:
    times = read_times(args.times)
    limits = Limits(cache_bytes=args.cache_bytes, max_in_flight=args.max_in_flight)
    measured = min(len(times.new), len(times.follow_up))
    rows = []
    for gpus in args.gpus:
        for rate in args.rate:
            started = time.monotonic()
            size = ClusterSize(gpus, args.gateways, keeps_images=not args.no_affinity)
            cluster = Cluster(times, size, limits, args.seed)
            sessions = Sessions(rate, args.clicks, args.think)
            arrivals = sessions.arrivals(args.seconds, measured, args.seed)
            cluster.follow(arrivals, args.seconds)
            figures = summary(cluster.outcomes, WARM_SHARE * args.seconds, args.seconds)
            hourly = gpus * args.price + args.gateways * args.gateway_price
            answers = figures["answers_a_second"] * HOUR_S
            shares = {f"{k} busy": v for k, v in cluster.utilisation(args.seconds).items()}
            costs = {"cost of a million": hourly / max(answers, 1e-9) * 1e6}
            rows.append({"rate": rate, "GPUs": float(gpus), **figures, **shares, **costs})
            print(f"{gpus} GPUs, {rate:g} a second: simulated in "
                  f"{time.monotonic() - started:.0f} s", file=sys.stderr)  # fmt: skip
    report = simulations_report(rows, times.source)
    publish(report, args.out / "simulations.md", args)
    for name, over, what, by in (
        ("latency", "rate", "p99_s", "GPUs"),
        ("cost", "GPUs", "cost of a million", "rate"),
    ):
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            curves.setdefault(f"{by} {row[by]:g}", []).append((row[over], row[what]))
        write_atomic(args.out / f"{name}.png", curves_plot(curves, over, what))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the errors are in bounds, 1 if not, 2 after an error."""
    return run_command(_parser(argv), lambda args: int(args.work(args)), argv)


if __name__ == "__main__":
    sys.exit(main())
