"""Compare methods that segment without annotators, on the same images, in the same time."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.budget import Budget
from benchmarks.comparison.data import datasets_of, read_problem
from benchmarks.comparison.methods.registry import AnyMethod
from benchmarks.comparison.methods.sam import SamMethod
from benchmarks.comparison.recipe import Recipe, Setting, methods_of
from benchmarks.comparison.report import write_report
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.config import load_config, to_dict
from cpcsam.errors import ConfigError
from cpcsam.model.base_checkpoint import base_digest
from training.evaluation.class_scores import means_of_groups, score_segmentation
from training.evaluation.panels import panels_of, save_panels

__all__ = ["Job", "main"]

PROG = "python -m benchmarks.comparison"
EXAMPLES = """examples:
  python -m benchmarks.comparison benchmarks/recipes/comparison.yaml \\
      --data bbbc038v1=/data/bbbc038v1
  python -m benchmarks.comparison benchmarks/recipes/comparison.yaml seeds=1 minutes=0.1 \\
      methods='[otsu, unet, sam]' out=out                      a quick look, without nuclei
  python -m benchmarks.comparison benchmarks/recipes/table3.yaml --data kvasir-seg=/data/Kvasir \\
      base=weights/sam_vit_b_01ec64.pth
  python -m benchmarks.comparison benchmarks/recipes/table3.yaml --report-only

Settings whose datasets are not given are left out. Every run's scores are kept in OUT/NAME; a run
whose scores are there is not repeated, so an interrupted comparison goes on where it stopped. Then
table.json, table.csv, table.md and report.html are written there. Minutes are CPU minutes of
training: with jobs=1 several cores spend them together.
"""
PANEL_SEED = 0
"""Pictures are of this seed's runs alone."""


@dataclass(frozen=True)
class Job:
    """One run and where its scores go."""

    name: str
    method: AnyMethod
    budget: Budget
    setting: Setting
    seed: int
    roots: Mapping[str, Path]
    folder: Path

    @property
    def path(self) -> Path:
        """The run's JSON."""
        return self.folder / self.setting.name / f"{self.name}-{self.seed}.json"

    def record(self) -> dict[str, Any]:
        """What decides the scores, as plain data; a base by its digest."""
        method = to_dict(self.method)
        if isinstance(self.method, SamMethod):
            method["model"]["base"] = base_digest(self.method.model.base)
        return {
            "method": method,
            "budget": to_dict(self.budget),
            "setting": to_dict(self.setting),
        }


def _one_thread() -> None:
    torch.set_num_threads(1)


def _work(job: Job) -> str:
    problem = read_problem(job.setting, job.seed, job.roots)
    fitted = job.method.fit(problem.task, job.budget, job.seed)
    names = problem.task.names
    test = tqdm(problem.test, desc="score", unit="image", leave=False)
    scores = score_segmentation(fitted.segment, names, test)
    captions = {}
    if job.seed == PANEL_SEED:
        panels = panels_of(problem.test, scores["per_image"], fitted.segment, names)
        captions = save_panels(panels, job.path.with_suffix(""))
    run = {
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
        "record": job.record(),
    }
    write_atomic(job.path, (json.dumps(run, indent=1) + "\n").encode())
    return (
        f"{job.setting.name}, {job.name}, seed {job.seed}: Dice {scores['dice']:.4f}, AP "
        f"{scores['ap50']:.4f} after {fitted.spent.steps} steps"
    )


def _jobs(recipe: Recipe, roots: Mapping[str, Path]) -> list[Job]:
    """All runs whose data is given, seed by seed.

    Raises:
        ConfigError: no setting's data is given.
    """
    settings = [one for one in recipe.settings if set(datasets_of(one)) <= set(roots)]
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
        Job(name, method, budget, setting, seed, roots, recipe.folder)
        for seed in range(recipe.seeds)
        for setting in settings
        for name, (method, budget) in methods_of(recipe).items()
    ]


def _missing(jobs: list[Job]) -> list[Job]:
    """The runs without scores.

    Raises:
        ConfigError: there are scores of a run that was configured otherwise.
    """
    for job in jobs:
        if job.path.exists() and json.loads(job.path.read_text())["record"] != job.record():
            raise ConfigError.of(
                str(job.path),
                got="scores of another base, budget, setting or method",
                expected="those of this recipe",
                fix="give another out or name, or remove the file",
            )
    return [job for job in jobs if not job.path.exists()]


def _run(recipe: Recipe, jobs: list[Job]) -> None:
    if recipe.jobs == 1:
        for job in tqdm(jobs, desc="runs"):
            tqdm.write(_work(job), file=sys.stderr)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(recipe.jobs, mp_context=spawn, initializer=_one_thread) as pool:
        futures = [pool.submit(_work, job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), desc="runs"):
            tqdm.write(future.result(), file=sys.stderr)


def _root(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=PATH")
    return name, Path(path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("recipe", type=Path, help="YAML file, see benchmarks/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument(
        "--data",
        type=_root,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where a dataset of docs/guides/datasets.md is unpacked; may be repeated",
    )
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    options = parser.parse_intermixed_args(arguments)

    def command() -> None:
        recipe = load_config(Recipe, options.recipe, options.overrides)
        if recipe.cited is not None:
            recipe = replace(recipe, cited=options.recipe.parent / recipe.cited)
        if not options.report_only:
            _run(recipe, _missing(_jobs(recipe, dict(options.data))))
        print(write_report(recipe))

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
