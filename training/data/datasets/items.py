"""Lazily read samples: annotated images on disk, known by name and read on access."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from cpcsam.errors import CpcSamError, DataError
from cpcsam.images.options import ReadOptions
from training.data.datasets.account import Account, Unit
from training.data.sample import Sample

__all__ = ["Findings", "Item", "LazySamples", "Scan", "keep_classes"]


@dataclass
class Findings:
    """Faults that a reader finds, and its account of what it read.

    Attributes:
        strict: raise the first error. Otherwise all are collected and reading goes on.
        options: page, channels and intensity of image files.
        errors: what training stops at.
        losses: one line for each thing that is left out, without which training goes on.
        replaced: one line for each file that is unusable and in whose place another is taken,
            which is no error.
        account: counts of what was read and left out.
        drawn: number of entities that were drawn, some of which others may cover; None if as many
            as can be seen.
    """

    strict: bool = True
    options: ReadOptions = ReadOptions()
    errors: list[CpcSamError] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    drawn: int | None = None

    def broken(
        self,
        what: object,
        *,
        got: object,
        expected: object,
        fix: str,
        unit: Unit | None = None,
        reason: str = "unusable",
    ) -> None:
        """Record a fault that training stops at.

        Args:
            what: the file at fault.
            got: what it holds.
            expected: what it should.
            fix: next step for the user.
            unit: of which one is lost; None if it is counted elsewhere.
            reason: kind of the fault, for counts.

        Raises:
            DataError: if `strict`.
        """
        self.add(DataError.of(str(what), got=got, expected=expected, fix=fix), unit, reason)

    def add(self, error: DataError, unit: Unit | None = None, reason: str = "unusable") -> None:
        """Record an error that training stops at; the rest as in `broken`.

        Raises:
            DataError: if `strict`.
        """
        if self.strict:
            raise error
        self.errors.append(error)
        if unit is not None:
            self.account.lose(unit, reason)

    def lose(
        self,
        what: object,
        *,
        got: object,
        expected: object,
        fix: str,
        unit: Unit | None,
        reason: str,
        count: int = 1,
    ) -> None:
        """Record what is left out, without which training goes on.

        Args:
            what: file and row.
            got: what they hold.
            expected: what they should.
            fix: next step for the user.
            unit: what is lost; None if it is counted elsewhere.
            reason: kind of the loss, for counts.
            count: how many of the unit.
        """
        self.losses.append(str(DataError.of(str(what), got=got, expected=expected, fix=fix)))
        if unit is not None:
            self.account.lose(unit, reason, count)

    def empty(self, what: object) -> None:
        """Record an empty mask."""
        self.lose(
            what,
            got="an empty mask",
            expected="at least one pixel",
            fix="redraw or delete it",
            unit="annotations",
            reason="empty",
        )


class Item(ABC):
    """An annotated image on disk."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies the image within its dataset."""

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The files it is read from."""

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes of its entities, from file names or lists; None if these do not hold them."""
        return None

    @property
    def outlines(self) -> int:
        """Number of its annotations, from file names or lists; 0 if these do not tell."""
        return 0

    @abstractmethod
    def load(self, findings: Findings) -> Sample | None:
        """Read it; None if it has no usable image."""

    def read(self, options: ReadOptions | None = None) -> Sample:
        """Read it.

        Args:
            options: page, channels and intensity of image files.

        Raises:
            DataError: a file is missing, unreadable, of another size or of an unknown class.
        """
        sample = self.load(Findings(options=options or ReadOptions()))
        assert sample is not None, "a strict reader raises"
        return sample


@dataclass(frozen=True)
class Scan:
    """Content of a dataset's folder, from file names and lists alone.

    Attributes:
        classes: all classes, in the dataset's order.
        items: all images, in the dataset's order.
        test: names of the images that the files themselves reserve for testing; None if
            they do not.
        validation: likewise for validation.
        account: what was left out before an image was read. It counts an image as read once it
            is in `items`.
        losses: one line for each loss.
        lists: files that were read for it.
        refused: lists that could not be used, which `account` counts.
        unused: classes without an annotation, which are not among `classes`.
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    test: frozenset[str] | None = None
    validation: frozenset[str] | None = None
    account: Account = field(default_factory=Account)
    losses: tuple[str, ...] = ()
    lists: tuple[Path, ...] = ()
    refused: tuple[Path, ...] = ()
    unused: tuple[str, ...] = ()


def keep_classes(sample: Sample, classes: Collection[str]) -> Sample:
    """Turn the entities of other classes into background; labels stay."""
    labels = [label for label in np.unique(sample.instances) if label]
    kept = [label for label in labels if sample.class_of(int(label)) in classes]
    if len(kept) == len(labels):
        return sample
    shown = np.isin(sample.instances, kept)
    return replace(sample, instances=np.where(shown, sample.instances, 0))


class LazySamples(Sequence[Sample]):
    """Lazy sequence of samples: names are known, pixels are read on every access and not cached.

    Args:
        items: what is read.
        classes: entities of other classes become background; None keeps all.
        options: page, channels and intensity of image files.
        account: of the dataset that the items are of, before an image was read.
    """

    def __init__(
        self,
        items: Iterable[Item],
        classes: Collection[str] | None = None,
        options: ReadOptions | None = None,
        account: Account | None = None,
    ) -> None:
        self.items = tuple(items)
        self.options = options or ReadOptions()
        self.classes = None if classes is None else frozenset(classes)
        self.account = account

    @property
    def names(self) -> list[str]:
        """Names of the samples; reads nothing."""
        return [item.name for item in self.items]

    def __len__(self) -> int:
        """Number of samples; reads nothing."""
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> LazySamples: ...

    def __getitem__(self, index: int | slice) -> Sample | LazySamples:
        """Read one sample, or take some without reading them.

        Raises:
            DataError: its files are broken.
        """
        if isinstance(index, slice):
            return LazySamples(self.items[index], self.classes, self.options, self.account)
        sample = self.items[index].read(self.options)
        return sample if self.classes is None else keep_classes(sample, self.classes)

    def of_classes(self, classes: Collection[str]) -> LazySamples:
        """Return the same samples with entities of these classes alone."""
        return LazySamples(self.items, classes, self.options, self.account)

    def with_options(self, options: ReadOptions) -> LazySamples:
        """Return the same samples, read with other options."""
        return LazySamples(self.items, self.classes, options, self.account)

    def holds_entity(self, index: int) -> bool:
        """Return whether a sample has an entity, from names and lists if they suffice."""
        known = self.items[index].classes
        if known is not None and self.classes is not None:
            return not known.isdisjoint(self.classes)
        return bool(self[index].instances.any())

    def digest(self) -> str:
        """Compute the SHA-256 of names, kept classes, and every file's name and size.

        It identifies the content without reading it, which would take hours on large datasets.
        """
        digest = hashlib.sha256(repr(self.classes and sorted(self.classes)).encode())
        for item in self.items:
            digest.update(item.name.encode(errors="backslashreplace"))
            for path in item.files:
                try:
                    size = path.stat().st_size
                except OSError:
                    # A missing file is reported, by name, when its sample is read.
                    size = -1
                digest.update(f"{path.name}:{size}".encode(errors="backslashreplace"))
        return digest.hexdigest()
