"""How many prototypes a vocabulary should have, measured where nothing is compared or claimed.

Scenes of base classes, and with `--bbbc038` images of train.txt, both from the base as it is: the
support set and the scored images are others, and none is in a test of `benchmarks.comparison`.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.data.confounded_scenes import scene
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.automatic.vocabulary import VocabularyConfig, build_vocabulary
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.torch_backend import TorchBackend
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import Sample
from training.evaluate_auto import evaluate_auto
from training.evaluation.torch_model import class_names, examples_of, support_set

__all__ = ["main"]

PROG = "python -m benchmarks.prototypes"
EXAMPLES = """examples:
  python -m benchmarks.prototypes
  python -m benchmarks.prototypes --bbbc038 /data/bbbc038v1     nuclei as well

Figures go to prototypes.json and prototypes.md in --out.
"""
NUMBERS = ((4, 4), (8, 4), (4, 32), (8, 32), (16, 32), (16, 64))
"""Of a class, and of the background; the first are the defaults."""
SUPPORT_SEED, TEST_SEED, SUPPORT_SCENES, TEST_SCENES = 610_000, 620_000, 3, 24
EVERY = 6
"""Of the nuclei's images that are not support, one in so many is scored."""


@dataclass(frozen=True)
class Problem:
    """Images to learn a vocabulary from, and others to find entities in."""

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
            vocabulary = build_vocabulary(
                names, examples, model="", tile=problem.tile, config=config
            )
            scores = evaluate_auto(backend, vocabulary, problem.test)
            row[name] = {"dice": scores["dice"], "ap50": scores["ap50"]}
    return rows


def _markdown(rows: list[dict[str, Any]], problems: dict[str, Problem]) -> str:
    titles = [f"{name}: {score}" for name in problems for score in ("Dice", "AP@0.5")]
    lines = [
        "| of a class | of the background | " + " | ".join(titles) + " |",
        "|" + "---|" * (2 + len(titles)),
    ]
    for row in rows:
        scores = [f"{100 * row[name][key]:.1f}" for name in problems for key in ("dice", "ap50")]
        lines.append(f"| {row['prototypes']} | {row['background']} | {' | '.join(scores)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument("--bbbc038", type=Path, metavar="DIR", help="folder of BBBC038v1")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/prototypes"), metavar="DIR"
    )
    options = parser.parse_args(arguments)

    def command() -> None:
        problems = _problems(options.bbbc038)
        rows = _measure(options.base, problems)
        report = {
            "base_sha256": base_digest(options.base),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "rows": rows,
        }
        markdown = _markdown(rows, problems)
        write_atomic(
            options.out / "prototypes.json", (json.dumps(report, indent=2) + "\n").encode()
        )
        write_atomic(options.out / "prototypes.md", markdown.encode())
        print(markdown, end="")

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
