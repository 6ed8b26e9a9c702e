"""Diagnose calibration: is there a signal, can CaPL see it, and what does CaPL do?

Examples:
  python -m benchmarks.diagnosis                  trains two arms of benchmarks.calibration
  python -m benchmarks.diagnosis --minutes 0.2    a quick look
  python -m benchmarks.diagnosis --bbbc038 /data/bbbc038v1 --steps 261
  python -m benchmarks.diagnosis --bbbc038 /data/bbbc038v1 --steps 261 --on base

Figures go to scenes.json, tissue.json or fluorescence.json in --out, and diagnosis.md shows those
that are there. Minutes are CPU minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.budget import Budget
from benchmarks.calibration.arms import GROUPS, POINTS, SHOTS
from benchmarks.calibration.jobs import tempo_file
from benchmarks.calibration.runs import train
from benchmarks.calibration.splits import read_split
from benchmarks.calibration.step_time import steps_of
from benchmarks.common.output import OUT, add_report_option, publish, write_json
from benchmarks.diagnosis.probe import visible_misses
from benchmarks.diagnosis.report import figures_of, report_of
from benchmarks.diagnosis.traces import answers_of
from cpcsam.commands import count, parser_of, positive, run_command
from cpcsam.model.base_checkpoint import base_digest, load_base
from reporting.run_report import machine_of

__all__ = ["main"]

PROG = "python -m benchmarks.diagnosis"
ARMS = (GROUPS, POINTS)


def diagnose(args: argparse.Namespace) -> dict[str, Any]:
    """Train the arms and trace their answers.

    Returns:
        Plain data: `models`, figures of each, and on the confounded scenes `visible`, the area
        under the ROC curve of a probe for missed clicks (0.5 is chance).
    """
    split = read_split(args.seed, SHOTS["standard"], args.bbbc038)
    samples = split.target if args.on == "target" else split.base
    models = {"base": load_base(args.base)}
    budgets = _budgets(args)
    for arm in tqdm(ARMS, desc="train", unit="arm"):
        state, _ = train(arm, split, args.base, args.seed, budgets[arm.name])
        models[arm.name] = state.model
    visible = {}
    if args.bbbc038 is None:
        visible = {name: visible_misses(model, split.target) for name, model in models.items()}
    figures = {}
    for name, model in tqdm(models.items(), desc="trace", unit="model"):
        figures[name] = figures_of(*(answers_of(model, samples, level) for level in (1.0, 0.0)))
    # Last, as it takes CaPL off the model that was traced above.
    models[POINTS.name].capl = None
    figures["points, CaPL off"] = figures_of(
        *(answers_of(models[POINTS.name], samples, level) for level in (1.0, 0.0))
    )
    return {
        "seed": args.seed,
        "base_sha256": base_digest(args.base),
        "machine": machine_of(),
        "budget": {name: asdict(budget) for name, budget in budgets.items()},
        "models": figures,
        "visible": visible,
    }


def _budgets(args: argparse.Namespace) -> dict[str, Budget]:
    if args.steps is None:
        return {arm.name: Budget(args.minutes) for arm in ARMS}
    scenes = read_split(0, SHOTS["standard"])
    kept = tempo_file(OUT / "calibration", args.base)
    steps = steps_of(ARMS, args.steps, GROUPS, scenes, args.base, kept)
    return {name: Budget(steps=number) for name, number in steps.items()}


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    name = "scenes"
    if args.bbbc038 is not None:
        name = "tissue" if args.on == "target" else "fluorescence"
    result = diagnose(args)
    write_json(args.out / f"{name}.json", result)
    publish(report_of(args.out), args.out / "diagnosis.md", args, result["base_sha256"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument("--minutes", type=positive, default=2.0, metavar="M", help="(default: 2)")
    parser.add_argument(
        "--steps", type=count, metavar="N", help="instead of minutes: as in benchmarks.calibration"
    )
    parser.add_argument(
        "--bbbc038", type=Path, metavar="DIR", help="fluorescence and tissue instead of scenes"
    )
    parser.add_argument(
        "--on",
        choices=("target", "base"),
        default="target",
        help="classes to diagnose; fluorescence is base, tissue target (default: target)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument(
        "--out", type=Path, default=OUT / "diagnosis", metavar="DIR", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
