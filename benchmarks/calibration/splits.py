"""Samples of `benchmarks.calibration`: to train on, and held out of base and target classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.common.confounded_scenes import DEVELOPMENT_CLASSES, scene
from benchmarks.common.stains import is_stained
from cpcsam.scale import Scale
from training.data.datasets.class_split import split_classes
from training.data.datasets.instance_folders import read_bbbc038
from training.data.sample import Sample, entity_windows
from training.data.vector_art.drawings import Part, open_collection
from training.data.vector_art.scenes import SceneConfig, compose

__all__ = ["Split", "development_split", "read_split"]

TEST_SCENES = 24
DEVELOPMENT_SCENES = 12
HELD_FLUORESCENCE = 20
"""Fluorescence images that no development run trains on."""


@dataclass(frozen=True)
class Split:
    """Samples of the encoder's size or larger.

    Attributes:
        train: of base classes.
        base: held out, of base classes.
        target: of target classes.
        scale: of training windows.
    """

    train: tuple[Sample, ...]
    base: tuple[Sample, ...]
    target: tuple[Sample, ...]
    scale: Scale


def read_split(
    seed: int, shots: int, bbbc038: Path | None = None, drawings: Path | None = None
) -> Split:
    """Draw the training samples of a seed; the test samples are the same for all.

    On BBBC038v1 fluorescence is the base domain, stained tissue the target.

    Args:
        seed: of the training samples.
        shots: number of training samples.
        bbbc038: the dataset's folder; None takes scenes.
        drawings: folder of openclipart-svg for vector-art scenes; None takes the confounded
            scenes.
    """
    if bbbc038 is None:
        # Seeds of training and test scenes lie far apart, so that no scene is in both.
        first = 1000 * (seed + 1)
        seeds = range(first, first + shots), range(900_000, 900_000 + TEST_SCENES)
        scale = Scale(202, 1.265)
        if drawings is not None:
            return Split(
                _vector_scenes(drawings, "train", "base", seeds[0]),
                _vector_scenes(drawings, "test", "base", seeds[1][: TEST_SCENES // 2]),
                _vector_scenes(drawings, "test", "target", seeds[1]),
                scale,
            )
        return Split(
            tuple(scene(index, target=False) for index in seeds[0]),
            tuple(scene(index, target=False) for index in seeds[1][: TEST_SCENES // 2]),
            tuple(scene(index, target=True) for index in seeds[1]),
            scale,
        )
    train, test = (read_bbbc038(bbbc038, bbbc038 / f"{name}.txt") for name in ("train", "val"))
    base = [sample for sample in train if not is_stained(sample)]
    return _nuclei(base, test, test, seed, shots, 5 * TEST_SCENES)


def development_split(seed: int, shots: int, bbbc038: Path | None = None) -> Split:
    """Draw samples to develop and tune on; none of them is tested on by `read_split`.

    The target classes of its scenes are other ones. Of BBBC038v1 it takes training images alone:
    stained ones as the target, and fluorescence that it does not train on as the base domain.

    Args:
        seed: of the training samples.
        shots: number of training samples.
        bbbc038: the dataset's folder; None takes the confounded scenes.
    """
    if bbbc038 is None:
        first = 50_000 + 1000 * seed
        tested = range(800_000, 800_000 + DEVELOPMENT_SCENES)
        return Split(
            tuple(scene(index, target=False) for index in range(first, first + shots)),
            tuple(scene(index, target=False) for index in tested[: DEVELOPMENT_SCENES // 2]),
            tuple(scene(index, target=True, targets=DEVELOPMENT_CLASSES) for index in tested),
            Scale(202, 1.265),
        )
    images = read_bbbc038(bbbc038, bbbc038 / "train.txt")
    base = [sample for sample in images if not is_stained(sample)]
    stained = [sample for sample in images if is_stained(sample)]
    held, free = base[:HELD_FLUORESCENCE], base[HELD_FLUORESCENCE:]
    return _nuclei(free, held, stained, seed, shots, 5 * DEVELOPMENT_SCENES)


def _nuclei(
    training: Sequence[Sample],
    base: Sequence[Sample],
    target: Sequence[Sample],
    seed: int,
    shots: int,
    most: int,
) -> Split:
    """Choose training images; cut at most `most` windows of nuclei out of the others."""
    chosen = np.random.default_rng(seed).choice(len(training), shots, replace=False)
    # At most 8 an image: one of hundreds of nuclei would outweigh all others.
    crops = [
        [window for sample in samples for window in entity_windows(sample, 128, 30)[:8]]
        for samples in (base, target)
    ]
    return Split(
        tuple(training[index] for index in chosen),
        tuple(crop for crop in crops[0] if not is_stained(crop))[:most],
        tuple(crop for crop in crops[1] if is_stained(crop))[:most],
        Scale(128, 1.36),
    )


def _vector_scenes(
    root: Path, part: Part, role: Literal["base", "target"], seeds: Iterable[int]
) -> tuple[Sample, ...]:
    """Compose a scene of each seed from one part of the drawings and one role of the classes."""
    collection = open_collection(root)
    base, target = split_classes(collection.categories)
    drawings = collection.of(part, base if role == "base" else target)
    return tuple(
        compose(drawings, seed, SceneConfig(), f"vector-{part}-{role}-{seed}").sample
        for seed in seeds
    )
