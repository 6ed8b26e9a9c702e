"""Datasets with a mask file per image: indexed classes, binary, or labelled entities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import DataError
from training.data.datasets.class_files import ClassFiles
from training.data.datasets.files import (
    entities_of,
    read_binary,
    read_rgb,
    read_values,
    size_fits,
)
from training.data.datasets.folders import find_folder, image_below, natural_key, read_text
from training.data.datasets.image_index import composed, is_hidden
from training.data.datasets.items import Findings, Item, Scan
from training.data.datasets.masks import SOFT, edges_of
from training.data.datasets.pairs import by_stem, stem_below, without_image, without_mask
from training.data.sample import ENTITY, Sample

__all__ = ["MaskFileItem", "MaskFiles", "OwnFolders"]


@dataclass(frozen=True)
class MaskFileItem(Item):
    """An image and its mask.

    Attributes:
        label: its name within the dataset.
        image: the image file.
        mask: the mask file.
        values: the class of mask value k is `values[k - 1]`; one class alone takes every bright
            pixel; none at all takes a black and white mask as one class, and any other as a
            label image, every value an entity.
    """

    label: str
    image: Path
    mask: Path
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """The image file's stem, after its folders below that of all images."""
        return self.label

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and mask."""
        return (self.image, self.mask)

    @property
    def outlines(self) -> int:
        """The mask."""
        return 1

    def load(self, findings: Findings) -> Sample | None:
        """Read image and mask; each connected component of a class is an entity."""
        image = read_rgb(self.image, findings)
        values, names = self._values(self.mask, findings)
        if image is None or values is None:
            return None
        if not size_fits(self.mask, values, image.shape[:2], findings):
            return None
        if values.any():
            findings.account.take("annotations")
        else:
            findings.empty(self.mask)
        if names is None:
            return Sample(self.name, image, values, (ENTITY,) * int(values.max(initial=0)))
        return Sample(self.name, image, *entities_of(values, dict(enumerate(names, start=1))))

    def _values(
        self, mask: Path, findings: Findings
    ) -> tuple[NDArray[np.int32] | None, tuple[str, ...] | None]:
        """Return the mask's values and the classes of 1..n; None for a label image."""
        if len(self.values) == 1:
            binary = read_binary(mask, findings)
            return None if binary is None else binary.astype(np.int32), self.values
        if self.values:
            values = read_values(mask, findings)
            highest = 0 if values is None else int(values.max(initial=0))
            if highest > len(self.values):
                findings.broken(
                    mask,
                    got=f"unknown class {highest}",
                    expected=f"0 to {len(self.values)} ({', '.join(self.values)})",
                    fix="correct the mask or the list of classes",
                    unit="annotations",
                    reason="of an unknown class",
                )
                return None, self.values
            return values, self.values
        if mask.suffix.lower() in {".jpg", ".jpeg", ".webp"}:
            binary = read_binary(mask, findings)
            return None if binary is None else binary.astype(np.int32), (ENTITY,)
        values = read_values(mask, findings, renumber=True)
        if values is None:
            return None, None
        if len(np.unique(values)) > 2:
            if edges_of(values) == "labels":
                return values, None
            findings.account.changed[SOFT] += 1
            values = np.where(values > values.max() // 2, values, 0)
        return (values > 0).astype(np.int32), (ENTITY,)


@dataclass(frozen=True)
class MaskFiles:
    """Images in one folder, masks of the same names in another.

    Attributes:
        images: folders to try, in this order.
        masks: likewise.
        values: as in `MaskFileItem`.
        below: read folders below these as well; paths in the two are the same.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    values: tuple[str, ...]
    below: bool = False

    def scan(self, root: Path) -> Scan:
        """List the images with their masks.

        Raises:
            DataError: a folder is missing or empty.
        """
        findings = Findings(strict=False)
        folder = find_folder(root, *self.masks)
        masks = by_stem(folder, "annotations", findings, below=self.below)
        folder = find_folder(root, *self.images)
        images = by_stem(folder, "images", findings, below=self.below)
        for stem in sorted(masks.keys() - images.keys(), key=natural_key):
            without_image(masks[stem], findings)
            findings.account.lose("annotations", "without an image")
        for stem in sorted(images.keys() - masks.keys(), key=natural_key):
            without_mask(images[stem], findings)
        # In the order of the names on disk, by which images are split into parts.
        names = {stem_below(folder, images[stem]): stem for stem in images.keys() & masks.keys()}
        items = (
            MaskFileItem(name, images[names[name]], masks[names[name]], self.values)
            for name in sorted(names, key=natural_key)
        )
        classes = self.values or (ENTITY,)
        return Scan(classes, tuple(items), account=findings.account, losses=tuple(findings.losses))


@dataclass(frozen=True)
class OwnFolders:
    """The user's `images` and `masks`.

    `masks` has a folder a class, with a black and white mask an image; or a mask an image, in the
    same folders as the images. Then `classes.txt`, a class a line, names the values 1, 2, ... of
    the masks; without it every mask is black and white, or a label image.
    """

    def scan(self, root: Path) -> Scan:
        """List the images with their masks.

        Raises:
            DataError: a folder is missing or empty.
        """
        parts = _folders_in(root, "masks")
        # Else they are classes, whatever else lies beside the images.
        below = bool(filled := _filled(root, "masks")) and filled <= _filled(root, "images")
        if parts and not below:
            return ClassFiles(("images",), ("masks",), parts, True, shrink=False).scan(root)
        findings = Findings(strict=False)
        listing = root / "classes.txt"
        classes = _classes(listing, findings)
        scan = MaskFiles(("images",), ("masks",), classes, below).scan(root)
        scan.account.add(findings.account)
        return replace(scan, lists=(listing,)) if listing.is_file() else scan


def _folders_in(root: Path, name: str) -> dict[str, str]:
    """Map the names of a folder's sub-folders to their composed form."""
    paths = sorted(find_folder(root, name).iterdir())
    names = [path.name for path in paths if path.is_dir() and not is_hidden(path.name)]
    return {name: composed(name) for name in names}


def _filled(root: Path, name: str) -> set[str]:
    """Return the composed names of a folder's sub-folders that hold images."""
    folder = find_folder(root, name)
    return {new for old, new in _folders_in(root, name).items() if image_below(folder / old)}


def _classes(path: Path, findings: Findings) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    names = tuple(read_text(path, findings))
    if not names or len(set(names)) < len(names):
        raise DataError.of(
            str(path),
            got="a class twice" if names else "an empty list",
            expected="the class of mask value k on line k",
            fix="correct or delete it",
        )
    return names
