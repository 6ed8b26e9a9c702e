"""Scenes composed from a collection of SVG drawings, Debian's openclipart-svg, when read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from training.data.datasets.account import Account
from training.data.datasets.class_split import split_classes
from training.data.datasets.items import Findings, Item, Scan
from training.data.sample import Sample
from training.data.vector_art.drawings import Part, open_collection
from training.data.vector_art.scenes import Scene, SceneConfig, compose

__all__ = ["SceneItem", "VectorScenes"]

DRAWINGS_PER_SCENE = 2
"""A part has half as many scenes as drawings: each whole drawing is shown about three times."""

CACHED_SCENES = 64
"""Scenes that a process keeps, least recently used first out: 30 MB at 256 pixels."""

Classes = Literal["all", "base", "target"]
PARTS: Final = get_args(Part)
ROLES: Final = get_args(Classes)
SHOWN: Final[Mapping[Part, tuple[Classes, ...]]] = {
    "train": ("base", "target"),
    "validation": ("base",),
    "test": ("all",),
}
"""Classes that the scenes of a part show; to train on base classes, the others are left out."""


@dataclass(frozen=True)
class SceneItem(Item):
    """A scene that is composed when it is read.

    Attributes:
        root: the collection's folder.
        digest: first digits of the collection's digest, so that names change with it.
        part: of the data; the drawings of the others do not appear.
        role: which classes are shown: base, target or all.
        index: of the scene.
        config: size and content.
        categories: the classes that may be shown.
    """

    root: Path
    digest: str
    part: Part
    role: Classes
    index: int
    config: SceneConfig
    categories: frozenset[str]

    @property
    def name(self) -> str:
        """Collection, part, role and index."""
        return f"{self.digest}-{self.part}-{self.role}-{self.index:04d}"

    @property
    def files(self) -> tuple[Path, ...]:
        """None of its own; the name holds the collection's digest."""
        return ()

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes that may be shown, of which at least one is; None if these are of both roles."""
        return None if self.role == "all" else self.categories

    def load(self, findings: Findings) -> Sample | None:
        """Compose it; drawings that cannot be rendered are replaced by others."""
        scene = _composed(self)
        findings.replaced += scene.skipped
        return scene.sample


@functools.lru_cache(maxsize=CACHED_SCENES)
def _composed(item: SceneItem) -> Scene:
    drawings = open_collection(item.root).of(item.part, item.categories)
    seed = (PARTS.index(item.part), ROLES.index(item.role), item.index)
    return compose(drawings, seed, item.config, item.name)


@dataclass(frozen=True)
class VectorScenes:
    """A collection of drawings; categories are classes, and some are kept out.

    The drawings of each part are apart. Training scenes show base classes alone or target classes
    alone, those for validation base classes, those for testing all.

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
        base, target = split_classes(collection.categories)
        classes = {"base": base, "target": target, "all": base | target}
        account = Account()
        account.take("files", len(collection.drawings))
        for why, count in collection.left_out.items():
            account.pass_over("files", why, count)
        names: dict[Part, list[str]] = {part: [] for part in PARTS}
        items = []
        for part, role in ((part, role) for part, roles in SHOWN.items() for role in roles):
            drawings = collection.of(part, classes[role])
            categories = frozenset(drawings)
            for index in range(-(-sum(map(len, drawings.values())) // DRAWINGS_PER_SCENE)):
                item = SceneItem(root, digest, part, role, index, config, categories)
                items.append(item)
                names[part].append(item.name)
        return Scan(
            collection.categories,
            tuple(items),
            frozenset(names["test"]),
            frozenset(names["validation"]),
            account,
        )
