"""Lazily read samples: annotated images on disk, known by name and read on access."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from cpcsam.errors import CpcSamError, DataError
from cpcsam.images.options import ReadOptions
from training.data.sample import Sample

__all__ = ["Findings", "Item", "LazySamples", "Scan", "keep_classes"]


@dataclass
class Findings:
    """Faults that a reader finds in the files of an image.

    Attributes:
        strict: raise the first error; an empty mask is then passed over. Otherwise all are
            collected and reading goes on.
        options: page, channels and intensity of image files.
        errors: what was collected.
        replaced: one line for each file that is unusable and in whose place another is taken,
            which is no error.
    """

    strict: bool = True
    options: ReadOptions = ReadOptions()
    errors: list[CpcSamError] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    def broken(self, what: object, *, got: object, expected: object, fix: str) -> None:
        """Record a fault.

        Raises:
            DataError: if `strict`.
        """
        self.add(DataError.of(str(what), got=got, expected=expected, fix=fix))

    def add(self, error: DataError) -> None:
        """Record an error.

        Raises:
            DataError: if `strict`.
        """
        if self.strict:
            raise error
        self.errors.append(error)

    def empty(self, what: object) -> None:
        """Record an empty mask, which is harmless in training."""
        if not self.strict:
            self.broken(
                what, got="an empty mask", expected="at least one pixel", fix="redraw or delete it"
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
        left_out: number of files that are not used, by reason.
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    test: frozenset[str] | None = None
    validation: frozenset[str] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


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
    """

    def __init__(
        self,
        items: Iterable[Item],
        classes: Collection[str] | None = None,
        options: ReadOptions | None = None,
    ) -> None:
        self.items = tuple(items)
        self.options = options or ReadOptions()
        self.classes = None if classes is None else frozenset(classes)

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
            return LazySamples(self.items[index], self.classes, self.options)
        sample = self.items[index].read(self.options)
        return sample if self.classes is None else keep_classes(sample, self.classes)

    def of_classes(self, classes: Collection[str]) -> LazySamples:
        """Return the same samples with entities of these classes alone."""
        return LazySamples(self.items, classes, self.options)

    def with_options(self, options: ReadOptions) -> LazySamples:
        """Return the same samples, read with other options."""
        return LazySamples(self.items, self.classes, options)

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
            digest.update(item.name.encode())
            for path in item.files:
                try:
                    size = path.stat().st_size
                except OSError:
                    # A missing file is reported, by name, when its sample is read.
                    size = -1
                digest.update(f"{path.name}:{size}".encode())
        return digest.hexdigest()
