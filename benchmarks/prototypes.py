"""Measure the number of prototypes of a vocabulary, on images that nothing is claimed of.

Examples:
  python -m benchmarks.prototypes
  python -m benchmarks.prototypes --bbbc038 /data/bbbc038v1     nuclei as well

Scenes of base classes, and with --bbbc038 images of train.txt, both from the base as it is: the
support set and the scored images are disjoint, and none is in a test of `benchmarks.comparison`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.common.confounded_scenes import scene
from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.automatic.vocabulary import VocabularyConfig, build_vocabulary
from cpcsam.commands import parser_of, run_command
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.torch_backend import TorchBackend
from reporting.run_report import RunReport, Table, machine_of
from reporting.tables import Cell
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import Sample
from training.evaluate_auto import evaluate_auto
from training.evaluation.torch_model import class_names, examples_of, support_set

__all__ = ["main", "report_of"]

PROG = "python -m benchmarks.prototypes"
NUMBERS = ((4, 4), (8, 4), (4, 32), (8, 32), (16, 32), (16, 64))
"""Prototypes of a class and of the background; the last pair is the default."""
SUPPORT_SEED, TEST_SEED, SUPPORT_SCENES, TEST_SCENES = 610_000, 620_000, 3, 24
EVERY = 6
"""Stride of the scored images among the nuclei's that are not support."""


@dataclass(frozen=True)
class Problem:
    """Support images of a vocabulary, and other images to find entities in."""

    support: Sequence[Sample]
    test: Sequence[Sample]
    tile: int


def _problems(bbbc038: Path | None) -> dict[str, Problem]:
    support, test = (
        [scene(seed + index, target=False) for index in range(count)]
        for seed, count in ((SUPPORT_SEED, SUPPORT_SCENES), (TEST_SEED, TEST_SCENES))
    )
    problems = {"scenes": Problem(support, test, 0)}
    if bbbc038 is not None:
        images = read_bbbc038(bbbc038, bbbc038 / "train.txt")
        shown = support_set(images, 0.1, seed=0)
        names = {sample.name for sample in shown}
        rest = [sample for sample in images if sample.name not in names]
        problems["nuclei"] = Problem(shown, rest[::EVERY], 128)
    return problems


def _measure(base: Path, problems: dict[str, Problem]) -> list[dict[str, Any]]:
    backend = TorchBackend(load_base(base))
    rows: list[dict[str, Any]] = [
        {"prototypes": prototypes, "background": background} for prototypes, background in NUMBERS
    ]
    for name, problem in problems.items():
        names = class_names(problem.support)
        examples = examples_of(problem.support, names, backend, problem.tile)
        for row in tqdm(rows, desc=name):
            config = VocabularyConfig(row["prototypes"], row["background"])
            # Never saved, so it needs no model's digest.
            vocabulary = build_vocabulary(
                names, examples, model="", tile=problem.tile, config=config
            )
            scores = evaluate_auto(backend, vocabulary, problem.test)
            row[name] = {"dice": scores["dice"], "ap50": scores["ap50"]}
    return rows


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result."""
    problems = [name for name in result["rows"][0] if name not in ("prototypes", "background")]
    titles = [f"{name}: {score}" for name in problems for score in ("Dice", "AP@0.5")]
    rows = [
        [
            row["prototypes"],
            row["background"],
            *(Cell(100 * row[name][key]) for name in problems for key in ("dice", "ap50")),
        ]
        for row in result["rows"]
    ]
    note = (
        f"Scores in %, by at most as many prototypes a class and of the background; "
        f"{result['machine']}, base `{result['base_sha256'][:12]}`."
    )
    heads = ["of a class", "of the background", *titles]
    return RunReport("prototypes", "Prototypes of a vocabulary", note, [Table("", heads, rows)])


def _run(args: argparse.Namespace) -> None:
    base = base_digest(args.base)
    result = {
        "base_sha256": base,
        "machine": machine_of(),
        "torch": torch.__version__,
        "rows": _measure(args.base, _problems(args.bbbc038)),
    }
    write_json(args.out / "prototypes.json", result)
    publish(report_of(result), args.out / "prototypes.md", args, base)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument("--bbbc038", type=Path, metavar="DIR", help="folder of BBBC038v1")
    parser.add_argument(
        "--out", type=Path, default=OUT / "prototypes", metavar="DIR", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
