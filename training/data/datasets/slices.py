"""Slices of a labelled NIfTI volume: the brain of Debian's mricron-data, 116 regions."""

from __future__ import annotations

import functools
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import DataError
from cpcsam.images.intensity import eight_bits
from cpcsam.images.options import Intensity
from training.data.datasets.account import Account
from training.data.datasets.files import entities_of
from training.data.datasets.folders import read_text
from training.data.datasets.items import Findings, Item, Scan
from training.data.labels import whole_labels
from training.data.sample import Sample

__all__ = ["LabelledVolume", "SliceItem", "read_nifti"]


MOST_COMPRESSED: Final = 1032
"""Largest factor of deflate, which gzip uses."""


def read_nifti(path: Path) -> NDArray[np.generic]:
    """Read a single-file volume, compressed or not.

    Returns:
        (X, Y, Z) of the file's own type; of a float type if its header scales the values.

    Raises:
        DataError: the file is missing, cut short or no NIfTI volume of three dimensions.
    """
    # Imported here, as training on any other dataset does without it.
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nibabel.load(path, mmap=False)
        if not isinstance(image, nibabel.Nifti1Image):
            raise _unusable(path, "another format")
        proxy: Any = image.dataobj  # an ArrayProxy; nibabel declares less
        needed = math.prod(map(int, proxy.shape)) * proxy.dtype.itemsize
        # nibabel allocates what the header promises before it reads.
        factor = MOST_COMPRESSED if path.suffix == ".gz" else 1
        if not 0 < needed <= path.stat().st_size * factor:
            raise _unusable(path, f"dimensions {proxy.shape}, more than the file holds")
        values: NDArray[np.generic] = proxy.get_unscaled()
    except FileNotFoundError as error:
        raise _unusable(path, "no such file") from error
    except (ImageFileError, HeaderDataError) as error:  # also of files cut short in the header
        raise _unusable(path, "an unreadable file or another format") from error
    except (OSError, EOFError, zlib.error, ValueError, ArithmeticError) as error:
        raise _unusable(path, f"an unreadable file ({error})") from error
    if values.ndim < 3 or min(values.shape) < 1 or max(values.shape[3:], default=1) > 1:
        raise _unusable(path, f"dimensions {values.shape}")
    if values.dtype.kind not in "iuf":
        raise _unusable(path, f"data type {values.dtype}")
    values = values.reshape(values.shape[:3], order="F")
    if proxy.slope != 1 or proxy.inter != 0:
        values = np.multiply(values, np.float32(proxy.slope))
        values = np.add(values, np.float32(proxy.inter))
    return values


def _unusable(path: Path, got: str) -> Exception:
    return DataError.of(
        str(path), got=got, expected="a NIfTI volume", fix="restore it from the package"
    )


SIDE = re.compile(r"_[LR]$")


@dataclass(frozen=True)
class SliceItem(Item):
    """One slice across the volume's last axis.

    Attributes:
        image: the file of the image volume.
        labels: the file of the label volume.
        index: of the slice.
        classes_of: class of each label value.
    """

    image: Path
    labels: Path
    index: int
    classes_of: Mapping[int, str]

    @property
    def name(self) -> str:
        """File and index."""
        return f"{self.labels.name.partition('.')[0]}-{self.index:03d}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Both volumes."""
        return (self.image, self.labels)

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes, from the label volume, which is small."""
        values = np.unique(_labels(self.labels)[:, :, self.index])
        return frozenset(self.classes_of[int(v)] for v in values if int(v) in self.classes_of)

    def load(self, findings: Findings) -> Sample | None:
        """Cut the slice out of both volumes, front up."""
        values = _shown(_labels(self.labels)[:, :, self.index]).astype(np.int32)
        volume = _image(self.image, findings.options.intensity)
        grey = _shown(volume[:, :, self.index]).astype(np.uint8)
        image = np.repeat(grey[:, :, None], 3, axis=2)
        unknown = sorted(set(np.unique(values).tolist()) - set(self.classes_of) - {0})
        if unknown:
            findings.broken(
                f"{self.labels} slice {self.index}",
                got=f"unknown class {unknown[0]}",
                expected=f"one of the {len(self.classes_of)} listed values",
                fix="restore the list of regions",
            )
        return Sample(self.name, image, *entities_of(values, self.classes_of))


def _labels(path: Path) -> NDArray[np.int32]:
    """Read a label volume, rounded; cached, since all slices come from the same."""
    return _labels_and_changes(path)[0]


@functools.lru_cache(maxsize=2)
def _labels_and_changes(path: Path) -> tuple[NDArray[np.int32], list[str]]:
    return whole_labels(read_nifti(path), renumber=False)


@functools.lru_cache(maxsize=2)
def _image(path: Path, intensity: Intensity | None = None) -> NDArray[np.uint8]:
    """Read an image volume as 8 bits, cached likewise."""
    return eight_bits(read_nifti(path), intensity)


def _shown(cut: NDArray[np.generic]) -> NDArray[np.generic]:
    """Turn (X, Y) into rows and columns, front up."""
    return np.ascontiguousarray(cut.T[::-1])


@dataclass(frozen=True)
class LabelledVolume:
    """An image volume, a label volume and the list of its regions, `VALUE NAME ...` a line.

    A region's two sides, NAME_L and NAME_R, are entities of one class. Slices are set apart for
    testing in blocks: every third of `block` slices, and `gap` slices at its borders are left out,
    since neighbouring slices are alike.

    Attributes:
        folders: of the files, below the root.
        files: image volume, label volume and list.
        block: slices of a block.
        gap: slices left out on the training side of a border.
    """

    folders: tuple[str, ...] = (".", "templates")
    files: tuple[str, str, str] = ("ch2.nii.gz", "aal.nii.gz", "aal.nii.txt")
    block: int = 15
    gap: int = 3

    def scan(self, root: Path) -> Scan:
        """List the slices that hold a region.

        Raises:
            DataError: a file is missing or unreadable, or the volumes do not match.
        """
        places = [root / folder for folder in self.folders]
        found = [place for place in places if (place / self.files[1]).is_file()]
        if not found:
            raise DataError.of(
                str(root),
                got=f"no {self.files[1]}",
                expected=f"the Debian package mricron-data's {', '.join(self.files)}",
                fix="apt-get install mricron-data and give /usr/share/mricron",
            )
        image, labels, listing = (found[0] / name for name in self.files)
        classes = _regions(listing)
        shape, volume = _image(image).shape, _labels(labels)
        if shape != volume.shape:
            raise DataError.of(
                str(labels), got=f"size {volume.shape}", expected=f"{shape} as {image.name}",
                fix="restore both from the package",
            )  # fmt: skip
        held = np.flatnonzero(volume.any(axis=(0, 1)))
        items, test, gaps = [], [], 0
        for index in held.tolist():
            place = index - int(held[0])
            item = SliceItem(image, labels, index, classes)
            if self._is_test(place):
                test.append(item.name)
            elif self._is_test(place - self.gap) or self._is_test(place + self.gap):
                gaps += 1
                continue
            items.append(item)
        account = Account()
        account.changed.update(_labels_and_changes(labels)[1])
        account.pass_over("images", "at the border of a block", gaps)
        account.pass_over("images", "without a region", volume.shape[2] - len(held))
        return Scan(
            tuple(dict.fromkeys(classes.values())),
            tuple(items),
            frozenset(test),
            account=account,
            lists=(image, labels, listing),
        )

    def _is_test(self, place: int) -> bool:
        return place // self.block % 3 == 1


def _regions(path: Path) -> dict[int, str]:
    try:
        rows = [line.split() for line in read_text(path)]
        return {int(row[0]): SIDE.sub("", row[1]) for row in rows}
    except (DataError, ValueError, IndexError) as error:
        raise DataError.of(
            str(path),
            got=f"an unreadable list ({error})",
            expected="VALUE NAME a line",
            fix="restore it from the package",
        ) from error
