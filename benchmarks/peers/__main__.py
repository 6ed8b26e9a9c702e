"""Measure the service and its peers side by side: times, throughput, CPU time and memory.

Examples:
  python -m benchmarks.peers                       all, in about 20 minutes on 2 free cores
  python -m benchmarks.peers --quick               every kind of figure, in about 4 minutes
  python -m benchmarks.peers --quick --models vit_t --systems official gateway

systems:
  official   segment-anything's SamPredictor in process; all ratios are to it
  fast       its form of segment-anything-fast, if there is a GPU
  litserve   SamPredictor behind LitServe, from an environment that the first run installs
  onnx       the exported graphs in ONNX Runtime, in process
  triton     Triton alone
  gateway    the whole service

All have the same two cores, images, prompts and weights. Masks are compared with official SAM's
before anything is timed; a mean IoU below 0.99 stops the run. Every measured cell is a file in
OUT/cells, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.common.output import add_report_option, publish
from benchmarks.peers.costs import split_cores
from benchmarks.peers.measure import Bench, measure
from benchmarks.peers.models import prepare_model
from benchmarks.peers.plan import FULL, OFFICIAL, QUICK, SYSTEMS
from benchmarks.peers.report import report_of
from benchmarks.peers.systems.environment import peers_python
from benchmarks.peers.systems.start import missing_hardware
from cpcsam.commands import parser_of, run_command, until_interrupted
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import base_digest
from reporting.run_report import current_provenance

__all__ = ["main"]

PROG: Final = "python -m benchmarks.peers"


def _run(args: argparse.Namespace) -> None:
    done = False
    # SIGTERM as well must unwind, so that no server is left behind.
    with until_interrupted():
        _measure_and_report(args)
        done = True
    if not done:
        raise KeyboardInterrupt


def _measure_and_report(args: argparse.Namespace) -> None:
    missing = {name: missing_hardware(name) for name in args.systems}
    systems = [name for name in SYSTEMS if name in args.systems and not missing[name]]
    if systems[:1] != [OFFICIAL]:
        raise ConfigError.of(
            "--systems", got=" ".join(systems), expected=f"{OFFICIAL} among them", fix="add it"
        )
    # It also measures by Locust, which comes with the peers.
    python = peers_python(args.out / "venv")
    serving, generator = split_cores(sorted(os.sched_getaffinity(0)))
    run = {
        "commit": current_provenance([]).commit,
        "cores": [len(serving), serving != generator],
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    bench = Bench(args.out, python, frozenset(serving), frozenset(generator), run)
    measured = []
    for setting in QUICK if args.quick else FULL:
        if setting.model in args.models:
            model = prepare_model(setting.model, args.base, args.out / "models")
            measure(bench, setting, model, systems)
            measured.append((setting, model))
    notes = [f"{SYSTEMS[name]}: not measured, {why}." for name, why in missing.items() if why]
    report = report_of(bench, measured, systems, notes)
    publish(report, args.out / "report.md", args, base_digest(args.base))
    for name, plot in report.plots.items():
        (args.out / f"{name}.png").write_bytes(plot)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when everything is measured, 2 after an error."""
    parser = parser_of(PROG, __doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="few requests, and of vit_b two workloads alone")
    models = [setting.model for setting in FULL]
    add("--models", nargs="+", choices=models, default=models, metavar="MODEL", help="vit_t vit_b")
    text = f"of {', '.join(SYSTEMS)} (all)"
    add("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS], metavar="SYSTEM", help=text)
    text = "served as vit_t (%(default)s)"
    add("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR", help=text)
    text = "of cells, models and environment (%(default)s)"
    add("--out", type=Path, default=Path("out/bench-peers"), metavar="DIR", help=text)
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
