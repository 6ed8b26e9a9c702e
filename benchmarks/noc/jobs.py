"""Jobs of `benchmarks.noc`: a system, a setting and a seed each, cached by configuration."""

from __future__ import annotations

import argparse
import multiprocessing
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.budget import Budget
from benchmarks.common.job_cache import store
from benchmarks.comparison.data import Problem, read_problem
from benchmarks.comparison.jobs import ComparisonJob, settings_with_data
from benchmarks.comparison.methods.ritm import RitmMethod
from benchmarks.comparison.methods.sam import SamMethod
from benchmarks.comparison.recipe import Recipe, methods_of
from benchmarks.noc.protocol import SamClicks, System, evaluate, views_of
from cpcsam.config import load_config
from training.loop.distributed import training_device

__all__ = ["SYSTEMS", "NocJob", "jobs_of", "run_job"]

RECIPE: Final = Path(__file__).parents[1] / "recipes/comparison.yaml"
"""Its settings and its base are used."""
SYSTEMS: Final = {
    "base": "sam",
    "samed": "samed",
    "lora-groups": "lora-groups",
    "cpc-sam": "cpc-sam",
    "ritm": "ritm",
}
"""Methods of the comparison by the system's name."""
LABELS: Final = {"base": "base", "ritm": "RITM"}
"""Where the comparison's label does not fit, as every system is clicked here."""


@dataclass(frozen=True)
class NocJob(ComparisonJob):
    """Training and clicking of a system.

    Attributes:
        entities: upper bound of the clicked entities.
    """

    entities: int = 0

    def configuration(self) -> dict[str, Any]:
        """Everything that decides the result."""
        return {**super().configuration(), "entities": self.entities}


def jobs_of(args: argparse.Namespace) -> list[NocJob]:
    """All jobs of the command's options whose data is given, seed by seed.

    Raises:
        ConfigError: no setting's data is given.
    """
    recipe = load_config(Recipe, RECIPE)
    roots = dict(args.data)
    budget = Budget(args.minutes) if args.steps is None else Budget(steps=args.steps)
    methods = methods_of(replace(recipe, methods=tuple(SYSTEMS.values())))
    systems = zip(SYSTEMS, (method for method, _ in methods.values()), strict=True)
    chosen = [(system, method) for system, method in systems if system in args.systems]
    settings = settings_with_data(recipe, roots)
    return [
        NocJob(system, method, budget, setting, seed, roots, args.out, args.entities)
        for seed in range(args.seeds)
        for setting in settings
        for system, method in chosen
        # What is not trained is the same for every seed.
        if seed == 0 or not isinstance(method, SamMethod) or method.learns
    ]


def run_job(job: NocJob) -> str:
    """Train a system, click and store a job; return a line for the log."""
    record = job.configuration()  # before training, whatever is edited meanwhile
    problem = read_problem(job.setting, job.seed, job.roots)
    views = views_of(problem.test, job.setting.tile, job.entities)
    system, trained = _trained(job, problem)
    ious = evaluate(system, views)
    result = {
        "name": job.name,
        "label": LABELS.get(job.name, job.method.label),
        "setting": job.setting.name,
        "seed": job.seed,
        **trained,
        "entities": len(views),
        "ious": ious,
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "torch": torch.__version__,
        "record": record,
    }
    store(job, result)
    clicks = sum(map(len, ious["accurate"])) / len(views)
    return (
        f"{job.setting.name}, {job.name}, seed {job.seed}: {clicks:.2f} clicks an entity after "
        f"{trained['steps']} steps"
    )


def _trained(job: NocJob, problem: Problem) -> tuple[System, dict[str, Any]]:
    """The system, and what its training took."""
    method = job.method
    system: System
    if isinstance(method, RitmMethod):
        system, spent, parameters = method.train(problem.task, job.budget, job.seed)
    elif isinstance(method, SamMethod):
        model, spent, parameters = method.train(problem.task, job.budget, job.seed)
        system = SamClicks(model.to(training_device()))
    else:
        raise TypeError(f"{job.name} takes no clicks")
    return system, {
        "steps": spent.steps,
        "minutes": spent.seconds / 60,
        "parameters": parameters,
    }
