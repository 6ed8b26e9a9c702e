"""Vector-art scenes for benchmarks: base classes to train on, unseen drawings to test on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from training.data.datasets.class_split import split_classes
from training.data.sample import Sample
from training.data.vector_art.drawings import Part, open_collection
from training.data.vector_art.scenes import SceneConfig, compose

__all__ = ["vector_scenes"]

Role = Literal["base", "target"]


def vector_scenes(root: Path, part: Part, role: Role, seeds: Iterable[int]) -> tuple[Sample, ...]:
    """Compose a scene of each seed.

    Args:
        root: folder of openclipart-svg.
        part: of the drawings; those of another part are never shown.
        role: show base classes or target classes.
        seeds: of the scenes.

    Raises:
        DataError: there are no such drawings.
    """
    collection = open_collection(root)
    base, target = split_classes(collection.categories)
    drawings = collection.of(part, base if role == "base" else target)
    return tuple(
        compose(drawings, seed, SceneConfig(), f"vector-{part}-{role}-{seed}").sample
        for seed in seeds
    )
