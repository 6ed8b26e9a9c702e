"""Scenes composed from a collection of SVG drawings, Debian's openclipart-svg, when read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.datasets.class_split import split_classes
from training.data.datasets.items import Findings, Item, Scan
from training.data.sample import Sample
from training.data.vector_art.drawings import Part, open_collection
from training.data.vector_art.scenes import SceneConfig, compose

__all__ = ["SCENES", "SceneItem", "VectorScenes"]

SCENES: Mapping[Part, int] = {"train": 1600, "validation": 160, "test": 320}
"""Scenes of base classes by part; there are half as many of target classes."""

CACHED_SCENES = 64
"""Scenes that a process keeps, least recently used first out: 30 MB at 256 pixels."""

SEEDS: Mapping[Part, int] = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class SceneItem(Item):
    """A scene that is composed when it is read.

    Attributes:
        root: the collection's folder.
        digest: first digits of the collection's digest, so that names change with it.
        part: of the data; the drawings of the others do not appear.
        target: show target classes alone instead of base classes alone.
        index: of the scene.
        config: size and content.
        categories: the classes that may be shown.
    """

    root: Path
    digest: str
    part: Part
    target: bool
    index: int
    config: SceneConfig
    categories: frozenset[str]

    @property
    def name(self) -> str:
        """Collection, part, role and index."""
        role = "target" if self.target else "base"
        return f"{self.digest}-{self.part}-{role}-{self.index:04d}"

    @property
    def files(self) -> tuple[Path, ...]:
        """None of its own; the name holds the collection's digest."""
        return ()

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes that may be shown, of which at least one is."""
        return self.categories

    def load(self, findings: Findings) -> Sample | None:
        """Compose it; drawings that cannot be rendered are replaced by others."""
        return _composed(self)


@functools.lru_cache(maxsize=CACHED_SCENES)
def _composed(item: SceneItem) -> Sample:
    drawings = open_collection(item.root).of(item.part, item.categories)
    seed = (SEEDS[item.part], int(item.target), item.index)
    return compose(drawings, seed, item.config, item.name).sample


@dataclass(frozen=True)
class VectorScenes:
    """A collection of drawings; categories are classes, and some are kept out.

    Scenes of base classes and of target classes are apart, and so are the drawings of each part.

    Attributes:
        parts: entities are parts of drawings.
    """

    parts: bool = False

    def scan(self, root: Path) -> Scan:
        """List the scenes; the collection is indexed and nothing is rendered.

        Raises:
            DataError: there is no drawing.
        """
        collection = open_collection(root)
        config, digest = SceneConfig(parts=self.parts), collection.digest[:8]
        names: dict[Part, list[str]] = {part: [] for part in SCENES}
        items = []
        for target, role in enumerate(split_classes(collection.categories)):
            for part, count in SCENES.items():
                categories = frozenset(collection.of(part, role))
                for index in range(count // (1 + target) if categories else 0):
                    item = SceneItem(
                        root, digest, part, bool(target), index, config, categories
                    )  # fmt: skip
                    items.append(item)
                    names[part].append(item.name)
        return Scan(
            collection.categories,
            tuple(items),
            frozenset(names["test"]),
            frozenset(names["validation"]),
        )
