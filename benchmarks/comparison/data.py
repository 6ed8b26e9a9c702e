"""The data of `benchmarks.comparison`: what is trained on, supported by and tested on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.calibration.arms import SHOTS
from benchmarks.calibration.splits import read_split
from benchmarks.common.confounded_scenes import scene
from benchmarks.common.stains import is_stained
from benchmarks.comparison.methods.interface import Task
from benchmarks.comparison.recipe import Setting
from cpcsam.errors import ConfigError
from training.data.augment import AugmentConfig
from training.data.datasets.items import LazySamples
from training.data.datasets.protocol import Dataset, open_dataset
from training.data.sample import Sample
from training.evaluation.torch_model import class_names, support_set

__all__ = ["Problem", "add_data_option", "datasets_of", "read_problem"]

SUPPORT_SCENES: Final = 3
SUPPORT_SEED: Final = 910_000
HELD: Final = 256
"""So many images or fewer are held in memory instead of being read for every window."""


@dataclass(frozen=True)
class Problem:
    """A task and the images that it is scored on.

    Attributes:
        task: what methods learn from.
        test: the images.
        groups: classes to average over, by the group's name.
    """

    task: Task
    test: Sequence[Sample]
    groups: Mapping[str, frozenset[str]]


def datasets_of(setting: Setting) -> list[str]:
    """The datasets whose folders a setting needs."""
    if setting.dataset == "confounded":
        return []
    first = "bbbc038v1" if setting.dataset == "stains" else setting.dataset
    return [first] if setting.tested_on is None else [first, setting.tested_on]


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add `--data NAME=PATH`, the datasets' folders as a list of names and paths."""
    parser.add_argument(
        "--data",
        type=_root,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="folder of an unpacked dataset of docs/guides/datasets.md; may be repeated",
    )


def _root(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=PATH")
    return name, Path(path)


def read_problem(setting: Setting, seed: int, roots: Mapping[str, Path]) -> Problem:
    """Read a setting's images.

    No method here selects by validation, so validation images are trained on as well, except
    where shots are drawn.

    Args:
        setting: which.
        seed: of shots and support set.
        roots: the datasets' folders by name.

    Raises:
        ConfigError: a dataset's folder is not given.
        DataError: images cannot be read.
    """
    if setting.dataset == "confounded":
        return _confounded(setting, seed)
    names = datasets_of(setting)
    missing = [name for name in names if name not in roots]
    if missing:
        raise ConfigError.of(
            f"data of {setting.name}",
            got=f"no folder of {missing[0]}",
            expected=f"where {missing[0]} is unpacked",
            fix=f"give --data {missing[0]}=PATH",
        )
    dataset, tested = (open_dataset(name, roots[name]) for name in (names[0], names[-1]))
    shown = None if not tested.spec.columns else frozenset(tested.spec.columns)
    if setting.shots is not None:
        train = dataset.shots(setting.shots, seed, setting.classes)
    else:
        train = _annotated(dataset, setting)
    # The support set shows every class, target classes included; training must not.
    rest, test = _annotated(tested, replace(setting, classes="all")), tested.samples("test")
    if shown is not None:
        rest, test = rest.of_classes(shown), test.of_classes(shown)
    if setting.dataset == "stains":
        train, _ = _by_stain(train)
        (_, rest), (_, test) = _by_stain(rest), _by_stain(test)
    share = min(setting.share, setting.max_support / max(len(rest), 1))
    support = support_set(rest, share, seed)
    groups = {"base classes": tested.base, "target classes": tested.target}
    return _problem(setting, _held(train), support, _spread(test, setting.test_images), groups)


def _confounded(setting: Setting, seed: int) -> Problem:
    split = read_split(seed, SHOTS["standard"] if setting.shots is None else setting.shots)
    support = [scene(SUPPORT_SEED + index, target=True) for index in range(SUPPORT_SCENES)]
    setting = replace(setting, spread=split.scale.spread, augment=AugmentConfig())
    return _problem(setting, split.train, support, _spread(split.target, setting.test_images), {})


def _problem(
    setting: Setting,
    train: Sequence[Sample],
    support: Sequence[Sample],
    test: Sequence[Sample],
    groups: Mapping[str, frozenset[str]],
) -> Problem:
    task = Task(train, support, class_names(support), setting.tile, setting.spread, setting.augment)
    return Problem(task, test, groups)


def _annotated(dataset: Dataset, setting: Setting) -> LazySamples:
    """Training and validation images."""
    parts = [dataset.samples(part, setting.classes) for part in ("train", "validation")]
    return LazySamples([item for part in parts for item in part.items], parts[0].classes)


def _by_stain(samples: LazySamples) -> tuple[LazySamples, LazySamples]:
    """Fluorescence and stained tissue."""
    stained = [is_stained(sample) for sample in samples]
    kinds = [
        LazySamples(
            [item for item, here in zip(samples.items, stained, strict=True) if here == kind],
            samples.classes,
        )
        for kind in (False, True)
    ]
    return kinds[0], kinds[1]


def _held(samples: Sequence[Sample]) -> Sequence[Sample]:
    return list(samples) if len(samples) <= HELD else samples


def _spread(samples: Sequence[Sample], count: int | None) -> Sequence[Sample]:
    if count is None or len(samples) <= count:
        return samples
    return [samples[index * len(samples) // count] for index in range(count)]
