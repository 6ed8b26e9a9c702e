"""Jobs of `benchmarks.calibration`: an arm, a setting and a seed each, cached by configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.budget import Budget
from benchmarks.calibration.arms import ABLATIONS, BOTH, CORE, GROUPS, NOISE, SHOTS, Arm
from benchmarks.calibration.runs import run
from benchmarks.calibration.splits import Split, development_split, read_split
from benchmarks.calibration.step_time import steps_of
from benchmarks.common.job_cache import code_digest, data_digest, digest_of, store
from cpcsam.config import to_dict
from cpcsam.model.base_checkpoint import base_digest
from training.data.vector_art.drawings import open_collection

__all__ = ["CalibrationJob", "context_of", "jobs_of", "run_job", "tempo_file"]


@dataclass(frozen=True)
class CalibrationJob:
    """Training and scoring of an arm.

    Attributes:
        arm: to train.
        setting: name of its folder of results.
        shots: number of training samples.
        seed: of weights, batches and training samples.
        budget: of training.
        base: the base checkpoint's folder.
        context: of all jobs of the benchmark, see `context_of`.
        bbbc038: the dataset's folder; None takes scenes.
        out: folder of all results.
        drawings: folder of the vector-art scenes' drawings; None takes the confounded scenes.
        curve: number of points on the training curve.
        strengths: of the careless prompts that are scored.
        development: take the development split.
    """

    arm: Arm
    setting: str
    shots: int
    seed: int
    budget: Budget
    base: Path
    context: str
    bbbc038: Path | None
    out: Path
    drawings: Path | None = None
    curve: int = 0
    strengths: tuple[float, ...] = NOISE
    development: bool = False

    @property
    def path(self) -> Path:
        """The result's JSON."""
        return self.out / self.setting / f"{self.arm.name}-{self.seed}.json"

    def split(self) -> Split:
        """Read the samples."""
        if self.development:
            return development_split(self.seed, self.shots, self.bbbc038)
        return read_split(self.seed, self.shots, self.bbbc038, self.drawings)

    def configuration(self) -> dict[str, Any]:
        """Everything that decides the result; the arm's label does not."""
        arm = to_dict(self.arm)
        del arm["label"]
        return {
            "arm": arm,
            "setting": self.setting,
            "shots": self.shots,
            "seed": self.seed,
            "budget": to_dict(self.budget),
            "curve": self.curve,
            "context": self.context,
            "strengths": list(self.strengths),
            "development": self.development,
            "data": None if self.bbbc038 is None else data_digest(self.bbbc038),
        }


def context_of(args: argparse.Namespace) -> dict[str, Any]:
    """Configuration that all jobs share: base, code, scenes, and minutes or steps of training."""
    return {
        **_shared(args.base, args.drawings),
        "minutes": args.minutes if args.steps is None else None,
        "steps": args.steps,
        "strengths": list(args.strengths),
        "development": args.development,
    }


def tempo_file(out: Path, base: Path, drawings: Path | None = None) -> Path:
    """File of the arms' measured tempo with this base, code and scenes."""
    return out / f"tempo-{digest_of(_shared(base, drawings))[:12]}.json"


def _shared(base: Path, drawings: Path | None) -> dict[str, Any]:
    scenes = {} if drawings is None else {"drawings": open_collection(drawings).digest}
    return {"base": base_digest(base), "code": code_digest(__name__), **scenes}


def jobs_of(args: argparse.Namespace) -> list[CalibrationJob]:
    """All jobs of the command's options, the core's arms first."""
    context = digest_of(context_of(args))

    def job(arm: Arm, setting: str, shots: int, seed: int, **more: Any) -> CalibrationJob:
        budget, bbbc038 = Budget(args.minutes), more.pop("bbbc038", None)
        place = (args.base, context, bbbc038, args.out, args.drawings)
        made = CalibrationJob(arm, setting, shots, seed, budget, *place, **more)
        return replace(made, strengths=tuple(args.strengths), development=args.development)

    jobs = [
        job(
            arm,
            setting,
            shots,
            seed,
            curve=args.curve if seed == 0 else 0,
        )
        for seed in range(args.seeds)
        for setting, shots in SHOTS.items()
        for arm in CORE
    ]
    if args.bbbc038 is not None:
        jobs += [
            job(arm, f"bbbc038-{setting}", shots, seed, bbbc038=args.bbbc038)
            for seed in range(args.seeds)
            for setting, shots in SHOTS.items()
            for arm in CORE
        ]
    # Whole seeds first, so that an interrupted benchmark has complete pairs.
    jobs.sort(key=lambda job: job.seed)
    if not args.core_only:
        # The others repeat the default arm, and the report takes its figures from the core.
        varied = [arm for arm in ABLATIONS if not arm.trains_as(BOTH)]
        jobs += [job(arm, "ablations", SHOTS["standard"], 0) for arm in varied]
    jobs = [job for job in jobs if args.arms is None or job.arm.name in args.arms]
    return jobs if args.steps is None else _by_steps(jobs, args)


def _by_steps(jobs: Sequence[CalibrationJob], args: argparse.Namespace) -> list[CalibrationJob]:
    """Replace minutes by the steps that take the time of `--steps` steps of the arm `groups`."""
    arms = {job.arm.name: job.arm for job in jobs}.values()
    split = read_split(0, SHOTS["standard"], drawings=args.drawings)
    kept = tempo_file(args.out, args.base, args.drawings)
    steps = steps_of(arms, args.steps, GROUPS, split, args.base, kept)
    return [replace(job, budget=Budget(steps=steps[job.arm.name])) for job in jobs]


def run_job(job: CalibrationJob) -> str:
    """Train, score and store a job; return a line for the log."""
    figures = run(job.arm, job.split(), job.base, job.seed, job.budget, job.curve, job.strengths)
    store(job, {**figures, "context": job.context})
    dice = figures["target"]["1.0"]
    return f"{job.setting}, {job.arm.name}, seed {job.seed}: {dice:.4f} in {figures['steps']} steps"
