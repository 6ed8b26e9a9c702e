"""Open-vocabulary protocol: base and target classes, test images, shots and seeds.

Classes are sorted by the SHA-256 of their names; the first round(13 n / 19) are base classes, but
if there are two or more, at least one is a target class. The order is independent of what classes
look like, and a dataset that lists its classes in another order gives the same split. A dataset of
a single class is trained and tested on that class.

Test images are those that the dataset's files reserve, else the paper's. Images for validation are
those that it reserves, else the last tenth of the others; the rest is for training, with base
labels alone. The shots of a seed are the first images with a base entity in a random order, so that
4 shots are among 8, and 8 among 128.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from cpcsam.errors import ConfigError, DataError
from cpcsam.images.options import ReadOptions
from training.data.datasets.account import Account
from training.data.datasets.class_split import BASE_SHARE, split_classes
from training.data.datasets.coco import CocoFiles
from training.data.datasets.items import Item, LazySamples, Scan
from training.data.datasets.registry import DatasetSpec, LastOfEachClass, Layout, spec_of

__all__ = [
    "BASE_SHARE",
    "MORE_SHOTS",
    "SEEDS",
    "SHOTS",
    "Classes",
    "Dataset",
    "Part",
    "open_dataset",
    "split_classes",
]

SHOTS = {"standard": 8, "few-shot": 4}
"""Training images of the paper's two settings, as its public code counts them."""

MORE_SHOTS = (128, 512)
"""Training images of the paper's Table 5."""

SEEDS = (0, 1, 2, 3, 4)
"""The paper's figures are of five runs."""

FALLBACK_TEST_SHARE = 5
VALIDATION_SHARE = 10

Part = Literal["train", "validation", "test"]
Classes = Literal["all", "base", "target"]


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk, split by the protocol; no pixel is read yet.

    Attributes:
        spec: what it is.
        classes: all classes, in the dataset's order.
        base: base classes.
        target: target classes; empty if there is only one class.
        parts: images of each part.
        account: what was left out before an image was read.
        losses: one line for each loss.
        lists: files that were read to find the images.
        refused: lists that could not be used, which `account` counts.
        unused: classes without an annotation, which have no role.
    """

    spec: DatasetSpec
    classes: tuple[str, ...]
    base: frozenset[str]
    target: frozenset[str]
    parts: dict[Part, tuple[Item, ...]]
    account: Account = field(default_factory=Account)
    losses: tuple[str, ...] = ()
    lists: tuple[Path, ...] = ()
    refused: tuple[Path, ...] = ()
    unused: tuple[str, ...] = ()

    def samples(self, part: Part, classes: Classes = "all") -> LazySamples:
        """Return the images of a part with the entities of some classes.

        Target classes of a dataset of one class are that class. Training images whose file names
        or lists show that they have no such entity are left out.
        """
        kept = {"all": None, "base": self.base, "target": self.target or self.base}[classes]
        items = self.parts[part]
        if kept is not None and part == "train":
            items = tuple(i for i in items if i.classes is None or not kept.isdisjoint(i.classes))
        others = () if kept is None else tuple(name for name in self.classes if name not in kept)
        return LazySamples(items, kept, account=self._account(others))

    def _account(self, background: tuple[str, ...]) -> Account:
        """Return the account before an image is read: what is listed counts as read."""
        items = [item for part in self.parts.values() for item in part]
        account = Account(background=background)
        account.add(self.account)
        account.take("images", len(items))
        account.take("annotations", sum(item.outlines for item in items))
        return account

    def shots(
        self,
        count: int,
        seed: int,
        classes: Classes = "base",
        options: ReadOptions | None = None,
    ) -> LazySamples:
        """Draw training images that hold an entity of some classes.

        Args:
            count: how many; 4 of a seed are the first of its 8.
            seed: 0 to 4 in the paper's protocol.
            classes: as in `samples`.
            options: page, channels and intensity of image files.

        Raises:
            ConfigError: there are fewer such images.
            DataError: an image that had to be looked at is broken.
        """
        samples = self.samples("train", classes).with_options(options or ReadOptions())
        chosen: list[Item] = []
        for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
            if len(chosen) == count:
                break
            if samples.holds_entity(index):
                chosen.append(samples.items[index])
        if not 0 < count == len(chosen):
            raise ConfigError.of(
                "shots",
                got=count,
                expected=f"1 to {len(chosen)}, the training images with {classes} classes",
                fix="take fewer",
            )
        return LazySamples(chosen, samples.classes, samples.options, samples.account)


def open_dataset(name: str, root: Path, crowds: bool = False) -> Dataset:
    """Find a dataset's files and divide its classes and images; reads no pixel.

    Args:
        name: a key of `DATASETS`.
        root: the folder it was unpacked in.
        crowds: read COCO's annotations with `iscrowd` as entities.

    Raises:
        ConfigError: there is no dataset of this name, or none in COCO JSON has crowds.
        DataError: folders or lists are missing or unreadable.
    """
    spec = spec_of(name)
    scan = (_with_crowds(spec.layout, name) if crowds else spec.layout).scan(root)
    names = [item.name for item in scan.items]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if len(names) < 2 or twice:
        raise DataError.of(
            str(root),
            got=f"two images {twice[0]}" if twice else f"{len(names)} images",
            expected="at least one image to train and one to test on, each with its own name",
            fix=scan.losses[0] if scan.losses else "complete or correct the dataset",
        )
    base, target = split_classes(scan.classes, spec.known)
    test = scan.test if scan.test is not None else frozenset(_test_names(scan, spec))
    rest = [item for item in scan.items if item.name not in test]
    held_out = max(1, len(rest) // VALIDATION_SHARE) if len(rest) > 1 else 0
    last = frozenset(item.name for item in rest[len(rest) - held_out :])
    validation = last if scan.validation is None else scan.validation
    parts: dict[Part, tuple[Item, ...]] = {
        "train": tuple(item for item in rest if item.name not in validation),
        "validation": tuple(item for item in rest if item.name in validation),
        "test": tuple(item for item in scan.items if item.name in test),
    }
    return Dataset(
        spec,
        scan.classes,
        base,
        target,
        parts,
        scan.account,
        scan.losses,
        scan.lists,
        scan.refused,
        scan.unused,
    )


def _with_crowds(layout: Layout, name: str) -> Layout:
    if not isinstance(layout, CocoFiles):
        raise ConfigError.of(
            "crowds",
            got=f"true for {name}",
            expected="a dataset in COCO JSON",
            fix="leave crowds out",
        )
    return replace(layout, crowds=True)


def _test_names(scan: Scan, spec: DatasetSpec) -> Sequence[str]:
    names = [item.name for item in scan.items]
    fallback = names[-max(1, len(names) // FALLBACK_TEST_SHARE) :]
    if isinstance(spec.split, LastOfEachClass):
        chosen: set[str] = set()
        for each in scan.classes:
            holding = [item.name for item in scan.items if each in (item.classes or ())]
            chosen |= set(holding[-spec.split.count :])
        return sorted(chosen) if 0 < len(chosen) < len(names) else fallback
    # A part of a dataset may hold no more images than the paper's test set.
    count = spec.split.count
    return names[-count:] if count is not None and count < len(names) else fallback
