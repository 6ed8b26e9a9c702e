"""Measure what calibration adds on unseen classes with careless prompts."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.budget import Budget
from benchmarks.calibration.arms import ABLATIONS, BOTH, CORE, GROUPS, NOISE, SHOTS, Arm
from benchmarks.calibration.report import write_report
from benchmarks.calibration.runs import noisy_dice, read_split, run
from benchmarks.calibration.step_time import steps_of
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, count, exit_code_of, positive
from cpcsam.model.base_checkpoint import base_digest, load_base

__all__ = ["main"]

PROG = "python -m benchmarks.calibration"
EXAMPLES = """examples:
  python -m benchmarks.calibration                                 core, then ablations
  python -m benchmarks.calibration --seeds 2 --minutes 0.2         a quick look
  python -m benchmarks.calibration --bbbc038 /data/bbbc038v1       fluorescence to tissue as well
  python -m benchmarks.calibration --steps 261                     the same on a busy machine
  python -m benchmarks.calibration --report-only

Every run's figures are kept in --out; a run whose figures are there is not repeated, so an
interrupted benchmark goes on where it stopped. Minutes are CPU minutes of one core.
"""
CURVE_POINTS = 6


@dataclass(frozen=True)
class Job:
    """One run and where its figures go."""

    arm: Arm
    setting: str
    shots: int
    seed: int
    budget: Budget
    base: Path
    bbbc038: Path | None
    out: Path
    curve: int = 0

    @property
    def path(self) -> Path:
        """The run's JSON."""
        return self.out / self.setting / f"{self.arm.name}-{self.seed}.json"


def _one_thread() -> None:
    torch.set_num_threads(1)


def _work(job: Job) -> str:
    split = read_split(job.seed, job.shots, job.bbbc038)
    figures = run(job.arm, split, job.base, job.seed, job.budget, job.curve)
    write_atomic(job.path, (json.dumps(figures, indent=2) + "\n").encode())
    target = figures["target"]["1.0"]
    return (
        f"{job.setting}, {job.arm.name}, seed {job.seed}: {target:.4f} in {figures['steps']} steps"
    )


def _jobs(options: argparse.Namespace) -> list[Job]:
    def job(arm: Arm, setting: str, shots: int, seed: int, **more: Any) -> Job:
        budget, bbbc038 = Budget(options.minutes), more.pop("bbbc038", None)
        return Job(arm, setting, shots, seed, budget, options.base, bbbc038, options.out, **more)

    jobs = [
        job(arm, setting, shots, seed, curve=CURVE_POINTS if seed == 0 else 0)
        for seed in range(options.seeds)
        for setting, shots in SHOTS.items()
        for arm in CORE
    ]
    if options.bbbc038 is not None:
        jobs += [
            job(arm, f"bbbc038-{setting}", shots, seed, bbbc038=options.bbbc038)
            for seed in range(options.seeds)
            for setting, shots in SHOTS.items()
            for arm in CORE
        ]
    if not options.core_only:
        varied = [arm for arm in ABLATIONS if not arm.trains_as(BOTH)]
        jobs += [job(arm, "ablations", SHOTS["standard"], 0) for arm in varied]
    return jobs


def _write_context(options: argparse.Namespace) -> None:
    """Score the base itself and record where the figures come from."""
    path = options.out / "context.json"
    if path.exists():
        return
    split = read_split(0, 1)
    model = load_base(options.base)
    context = {
        "base_sha256": base_digest(options.base),
        "target": {str(level): noisy_dice(model, split.target, level) for level in NOISE},
        "base": {"1.0": noisy_dice(model, split.base, 1.0)},
        "minutes": options.minutes,
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "torch": torch.__version__,
    }
    write_atomic(path, (json.dumps(context, indent=2) + "\n").encode())


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument("--bbbc038", type=Path, metavar="DIR", help="folder of BBBC038v1")
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
        help="on a busy machine, instead of minutes: so many of the arm `groups`, and of the "
        "others as many as take its time, measured in turns",
    )
    parser.add_argument("--core-only", action="store_true", help="leave the ablations out")
    parser.add_argument(
        "--arms", nargs="+", metavar="NAME", help="run only these arms (default: all)"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at once (default: 2)")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/calibration"), metavar="DIR"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = _parser().parse_args(arguments)

    def command() -> None:
        if not options.report_only:
            _write_context(options)
            _run_missing(options)
        print(write_report(options.out))

    return exit_code_of(command, PROG)


def _run_missing(options: argparse.Namespace) -> None:
    jobs = [
        job
        for job in _jobs(options)
        if not job.path.exists() and (options.arms is None or job.arm.name in options.arms)
    ]
    if options.steps is not None:
        arms = {job.arm.name: job.arm for job in jobs}.values()
        split = read_split(0, SHOTS["standard"])
        steps = steps_of(
            arms, options.steps, GROUPS, split, options.base, options.out / "tempo.json"
        )
        jobs = [replace(job, budget=Budget(steps=steps[job.arm.name])) for job in jobs]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=_one_thread) as pool:
        futures = [pool.submit(_work, job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), desc="runs"):
            tqdm.write(future.result(), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
