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

from benchmarks.budget import Budget, clock_of
from benchmarks.common.job_cache import code_digest, data_digest, store
from benchmarks.common.memory import reset_rss_peak, rss_peak_bytes
from benchmarks.comparison.data import datasets_of, read_problem
from benchmarks.comparison.methods.clip.proposals import RegionMethod
from benchmarks.comparison.methods.interface import Segment
from benchmarks.comparison.methods.registry import AnyMethod, ClipMethod
from benchmarks.comparison.methods.sam import SamMethod
from benchmarks.comparison.recipe import Recipe, Setting, lacking, methods_of
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.config import to_dict
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import base_digest
from training.data.sample import Sample
from training.evaluation.class_scores import means_of_groups, score_segmentation
from training.evaluation.panels import panels_of, save_panels
from training.loop.distributed import training_device

__all__ = ["ComparisonJob", "jobs_of", "run_job", "settings_with_data"]

PANEL_SEED: Final = 0
"""Seed whose runs get pictures."""


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
        """Everything that decides the scores; base, code and the data that is given by digests."""
        method, names = to_dict(self.method), datasets_of(self.setting)
        if isinstance(self.method, ClipMethod):
            method["clip"] = self.method.clip.record()
        if isinstance(self.method, RegionMethod):
            method["base"] = base_digest(self.method.base)
        if isinstance(self.method, SamMethod):
            method["model"]["base"] = base_digest(self.method.model.base)
        return {
            "method": method,
            "budget": to_dict(self.budget),
            "setting": to_dict(self.setting),
            "seed": self.seed,
            "data": {name: data_digest(self.roots[name]) for name in names if name in self.roots},
            "code": code_digest(type(self).__module__),
        }


def jobs_of(recipe: Recipe, roots: Mapping[str, Path]) -> list[ComparisonJob]:
    """All jobs whose data and weights are given, seed by seed.

    Raises:
        ConfigError: no setting's data is given, or no method's weights.
        ArtifactError: the weights are not there or of another architecture.
    """
    methods = methods_of(recipe)
    for name, command in lacking(recipe).items():
        print(
            f"{methods.pop(name)[0].label} is left out: it needs weights: {command}",
            file=sys.stderr,
        )
    settings = settings_with_data(recipe, roots)
    towers = [method.clip for method, _ in methods.values() if isinstance(method, ClipMethod)]
    for clip in dict.fromkeys(towers if methods else [recipe.clip]):
        clip.load()  # refuses now what would end the comparison after hours
    return [
        ComparisonJob(name, method, budget, setting, seed, roots, recipe.folder)
        # Outermost, so that an interrupted comparison has all methods at the same seeds.
        for seed in range(recipe.seeds)
        for setting in settings
        for name, (method, budget) in methods.items()
    ]


def settings_with_data(recipe: Recipe, roots: Mapping[str, Path]) -> list[Setting]:
    """The settings whose datasets are given; names the others on stderr.

    Args:
        recipe: of a comparison.
        roots: the datasets' folders by name.

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
    return settings


@dataclass
class _Timed:
    """A segmenter with the seconds that its images took, by the clock of training."""

    segment: Segment
    seconds: float = 0.0
    images: int = 0

    def __post_init__(self) -> None:
        self.clock = clock_of(training_device())

    def __call__(self, sample: Sample) -> list[InstanceMask]:
        start = self.clock()
        found = self.segment(sample)
        self.seconds += self.clock() - start
        self.images += 1
        return found


def run_job(job: ComparisonJob) -> str:
    """Train, score, picture and store a job; return a line for the log."""
    record = job.configuration()  # before training, whatever is edited meanwhile
    _reset_peak()
    problem = read_problem(job.setting, job.seed, job.roots)
    fitted = job.method.fit(problem.task, job.budget, job.seed)
    names = problem.task.names
    test = tqdm(problem.test, desc="score", unit="image", leave=False)
    timed = _Timed(fitted.segment)
    scores = score_segmentation(timed, names, test)
    peak = _peak_bytes()
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
        "image_seconds": timed.seconds / timed.images,
        "peak_bytes": peak,
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


def _reset_peak() -> None:
    reset_rss_peak()
    if training_device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_bytes() -> int:
    """Peak of a job's memory: a GPU's if it trains there, else the process's resident one."""
    if training_device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    return rss_peak_bytes()
