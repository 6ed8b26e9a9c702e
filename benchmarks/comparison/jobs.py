"""Jobs of `benchmarks.comparison`: a method, a setting and a seed each, cached by configuration."""

from __future__ import annotations

import multiprocessing
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from benchmarks.budget import Budget
from benchmarks.common.job_cache import TRAINING_CODE, code_digest, data_digest, store
from benchmarks.comparison.data import datasets_of, read_problem
from benchmarks.comparison.methods.registry import AnyMethod
from benchmarks.comparison.methods.sam import SamMethod
from benchmarks.comparison.recipe import Recipe, Setting, methods_of
from cpcsam.config import to_dict
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import base_digest
from training.evaluation.class_scores import means_of_groups, score_segmentation
from training.evaluation.panels import panels_of, save_panels

__all__ = ["ComparisonJob", "jobs_of", "run_job"]

PANEL_SEED: Final = 0
"""Seed whose runs get pictures."""
CODE: Final = (
    *TRAINING_CODE,
    "benchmarks/calibration/splits.py",
    "benchmarks/comparison/data.py",
    "benchmarks/comparison/methods",
    "benchmarks/common/stains.py",
)


@dataclass(frozen=True)
class ComparisonJob:
    """Training and scoring of a method.

    Attributes:
        name: of the method in the recipe.
        method: with the recipe's changes.
        budget: of training.
        setting: the data.
        seed: of weights, batches, shots and support sets.
        roots: the datasets' folders by name.
        folder: of the recipe's results.
    """

    name: str
    method: AnyMethod
    budget: Budget
    setting: Setting
    seed: int
    roots: Mapping[str, Path]
    folder: Path

    @property
    def path(self) -> Path:
        """The result's JSON."""
        return self.folder / self.setting.name / f"{self.name}-{self.seed}.json"

    def configuration(self) -> dict[str, Any]:
        """Everything that decides the scores; base, data and code by their digests."""
        method = to_dict(self.method)
        if isinstance(self.method, SamMethod):
            method["model"]["base"] = base_digest(self.method.model.base)
        return {
            "method": method,
            "budget": to_dict(self.budget),
            "setting": to_dict(self.setting),
            "seed": self.seed,
            "data": {name: data_digest(self.roots[name]) for name in datasets_of(self.setting)},
            "code": code_digest(CODE),
        }


def jobs_of(recipe: Recipe, roots: Mapping[str, Path]) -> list[ComparisonJob]:
    """All jobs whose data is given, seed by seed.

    Raises:
        ConfigError: no setting's data is given.
    """
    settings = [setting for setting in recipe.settings if set(datasets_of(setting)) <= set(roots)]
    for setting in recipe.settings:
        if setting not in settings:
            missing = ", ".join(name for name in datasets_of(setting) if name not in roots)
            print(f"{setting.name} is left out: no --data {missing}=PATH", file=sys.stderr)
    if not settings:
        raise ConfigError.of(
            "--data",
            got=", ".join(roots) or "nothing",
            expected="the datasets of a setting, such as " + datasets_of(recipe.settings[0])[0],
            fix="give --data NAME=PATH",
        )
    return [
        ComparisonJob(name, method, budget, setting, seed, roots, recipe.folder)
        # Outermost, so that an interrupted comparison has all methods at the same seeds.
        for seed in range(recipe.seeds)
        for setting in settings
        for name, (method, budget) in methods_of(recipe).items()
    ]


def run_job(job: ComparisonJob) -> str:
    """Train, score, picture and store a job; return a line for the log."""
    record = job.configuration()  # before training, whatever is edited meanwhile
    problem = read_problem(job.setting, job.seed, job.roots)
    fitted = job.method.fit(problem.task, job.budget, job.seed)
    names = problem.task.names
    test = tqdm(problem.test, desc="score", unit="image", leave=False)
    scores = score_segmentation(fitted.segment, names, test)
    captions = {}
    if job.seed == PANEL_SEED:
        panels = panels_of(problem.test, scores["per_image"], fitted.segment, names)
        captions = save_panels(panels, job.path.with_suffix(""))
    result = {
        "name": job.name,
        "label": job.method.label,
        "setting": job.setting.name,
        "seed": job.seed,
        "minutes": fitted.spent.seconds / 60,
        "steps": fitted.spent.steps,
        "parameters": fitted.parameters,
        "support": [sample.name for sample in problem.task.support],
        **scores,
        "groups": means_of_groups(scores["classes"], problem.groups),
        "panels": captions,
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "torch": torch.__version__,
        "record": record,
    }
    store(job, result)
    return (
        f"{job.setting.name}, {job.name}, seed {job.seed}: Dice {scores['dice']:.4f}, AP "
        f"{scores['ap50']:.4f} after {fitted.spent.steps} steps"
    )
