"""Report on a dataset that was checked, as text and as plain data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.data.datasets.account import Account
from training.data.datasets.folders import SUFFIXES
from training.data.datasets.image_index import is_hidden, walk_files
from training.data.datasets.protocol import Dataset, Part

__all__ = [
    "PARTS",
    "USABLE_WITH_LOSSES",
    "Report",
    "account_of_files",
    "printable",
    "spread_counts",
]

PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")
UNUSABLE: Final = 2
USABLE_WITH_LOSSES: Final = 4
"""Exit status of a dataset that training takes, but not all of it."""

RESULTS: Final[Mapping[int, str]] = {
    0: "complete",
    USABLE_WITH_LOSSES: "usable with losses",
    UNUSABLE: "training would stop at these problems",
}
NO_DATA: Final = frozenset(
    ".txt .json .jsonl .csv .tsv .xml .md .rst .html .pdf .yaml .yml .toml .cfg .ini .db .log .py "
    ".sh .ipynb .lut .tfw .jgw .pgw .prj .aux .sha256 .md5 .zip .tar .gz".split()
)
"""Suffixes of files that accompany images without being any."""


def account_of_files(dataset: Dataset, root: Path, out: Path) -> Account:
    """Count the files below a dataset's folder: those that are read, and the others by suffix.

    Args:
        dataset: what was found there.
        root: the folder.
        out: a folder whose files do not count.
    """
    account = Account()
    if dataset.account.read["files"]:
        return account
    # Strings, as paths of some ten thousand files take a noticeable part of the time.
    lists = set(map(str, dataset.lists))
    items = [item for part in PARTS for item in dataset.parts[part]]
    files = {str(path) for item in items for path in item.files} - lists
    folders = set(map(os.path.dirname, files))
    suffixes = {os.path.splitext(path)[1].lower() for path in files}
    account.take("files", len(files) + len(lists))
    used = files.union(lists, map(str, dataset.refused))
    for inside in walk_files(root):
        if os.path.join(root, inside) in used:
            continue
        path = root / inside
        if str(path) in used or path.is_relative_to(out):
            continue
        suffix = path.suffix.lower()
        if any(map(is_hidden, path.relative_to(root).parts)):
            account.pass_over("files", "hidden or the system's own")
        elif suffix in SUFFIXES or suffix in suffixes:
            account.pass_over("files", "images that no list or mask goes with")
        elif str(path.parent) in folders and suffix not in NO_DATA:
            account.lose("files", f"of a suffix that is not read ({suffix or 'none'})")
        else:
            account.pass_over("files", f"of another kind ({suffix or 'no suffix'})")
    return account


@dataclass(frozen=True)
class Report:
    """What was found in a dataset.

    Attributes:
        dataset: what was read.
        root: its folder.
        account: of the dataset and every image that was read.
        sizes: (H, W) of the images that could be read, ascending.
        entities: entities that can be seen, by class.
        images: images that hold an entity of a class, by class.
        without: number of images without an entity.
        looked: number of images that were read or tried.
        problems: number of lines that name what is wrong.
        images_with_problems: number of images that they are of.
        status: exit status.
        notes: further lines: key and text.
    """

    dataset: Dataset
    root: Path
    account: Account
    sizes: Sequence[tuple[int, int]]
    entities: Counter[str]
    images: Counter[str]
    without: int
    looked: int
    problems: int
    images_with_problems: int
    status: int
    notes: Mapping[str, str]

    def _role(self, name: str) -> str:
        return "base" if name in self.dataset.base else "target"

    def text(self) -> str:
        """Return the report as lines of text."""
        dataset = self.dataset
        counts = {part: len(dataset.parts[part]) for part in PARTS}
        lines = [
            f"{dataset.spec.title} in {self.root}",
            f"images     {sum(counts.values())}: "
            + ", ".join(f"{count} {part}" for part, count in counts.items()),
            f"read       {self.looked}; {self.without} of them without an entity",
            f"entities   {self.entities.total()}",
            f"classes    {len(dataset.classes)}: {len(dataset.base)} base, "
            f"{len(dataset.target)} target",
        ]
        width = max((len(name) for name in dataset.classes), default=0)
        for name in dataset.classes:
            lines.append(
                f"  {name:{width}}  {self._role(name):6}  {self.entities[name]:7} entities in "
                f"{self.images[name]:6} images"
            )
        if dataset.unused:
            lines.append(f"unused     {', '.join(dataset.unused)}: classes without an annotation")
        if self.sizes:
            (h0, w0), (h1, w1) = self.sizes[0], self.sizes[-1]
            lines.append(f"sizes      {h0}x{w0} to {h1}x{w1} pixels (height x width)")
        lines.append("account    read of found (left out)")
        lines += [f"  {row}" for row in self.account.rows()]
        lines += [f"{key:10} {text}" for key, text in self.notes.items()]
        early = len(dataset.losses)
        lines.append(
            f"problems   {self.problems}, in {self.images_with_problems} of {self.looked} images "
            + (f"read and {early} in lists and names" if early else "read")
        )
        lines.append(f"result     {RESULTS[self.status]}, exit status {self.status}")
        return printable("\n".join(lines)) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data, which JSON can hold."""
        dataset = self.dataset
        return {
            "dataset": dataset.spec.name,
            "root": printable(str(self.root)),
            "parts": {part: len(dataset.parts[part]) for part in PARTS},
            "looked": self.looked,
            "without_entity": self.without,
            "classes": [
                {
                    "name": name,
                    "role": self._role(name),
                    "entities": self.entities[name],
                    "images": self.images[name],
                }
                for name in dataset.classes
            ],
            "unused_classes": list(dataset.unused),
            "account": self.account.as_dict(),
            "problems": self.problems,
            "result": RESULTS[self.status],
            "status": self.status,
        }


def printable(text: str) -> str:
    """Return a text that every output takes: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def spread_counts(entities: Iterable[Counter[str]]) -> tuple[Counter[str], Counter[str]]:
    """Count entities, and images that hold one, by class."""
    total: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for seen in entities:
        total.update(seen)
        images.update(seen.keys())
    return total, images
