"""Datasets with a folder per image and a binary mask per entity: BBBC038v1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpcsam.errors import DataError
from cpcsam.images.options import ReadOptions
from training.data.datasets.files import read_binary, read_rgb, size_fits
from training.data.datasets.items import Findings, Item, Scan
from training.data.sample import Sample

__all__ = ["InstanceFolders", "InstanceItem", "read_bbbc038"]


@dataclass(frozen=True)
class InstanceItem(Item):
    """`<id>/images/<id>.png` with `<id>/masks/*.png`.

    Attributes:
        folder: the folder `<id>`.
        class_name: of all entities; None leaves the sample without class names.
    """

    folder: Path
    class_name: str | None = None

    @property
    def name(self) -> str:
        """The id."""
        return self.folder.name

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and masks."""
        return (self.folder / "images" / f"{self.name}.png", *self._masks())

    @property
    def classes(self) -> frozenset[str] | None:
        """The only class."""
        return None if self.class_name is None else frozenset({self.class_name})

    def _masks(self) -> list[Path]:
        return sorted((self.folder / "masks").glob("*.png"))

    def load(self, findings: Findings) -> Sample | None:
        """Read image and masks; of overlapping masks the later wins."""
        image = read_rgb(self.folder / "images" / f"{self.name}.png", findings)
        paths = self._masks()
        if not paths:
            findings.broken(
                self.folder,
                got="no masks",
                expected="masks/*.png",
                fix="restore or drop this image",
            )
        instances = None if image is None else np.zeros(image.shape[:2], np.int32)
        for index, path in enumerate(paths, start=1):
            mask = read_binary(path, findings)
            if mask is None:
                continue
            if not mask.any():
                findings.empty(path)
            if instances is not None and size_fits(path, mask, instances.shape, findings):
                instances[mask] = index
        if image is None or instances is None:
            return None
        # Labels count files, including those that are unreadable or covered by later ones.
        names = () if self.class_name is None else (self.class_name,) * len(paths)
        return Sample(self.name, image, instances, names)


@dataclass(frozen=True)
class InstanceFolders:
    """`stage1_train/<id>/{images,masks}/*.png`.

    Attributes:
        class_name: of all entities; None leaves samples without class names.
        folder: the folder of the ids.
        lists: files of ids, next to that folder, of the training and of the test images; if
            both exist they name the dataset's images.
    """

    class_name: str | None = None
    folder: str = "stage1_train"
    lists: tuple[str, str] = ("train.txt", "val.txt")

    def items(self, root: Path, ids_file: Path | None = None) -> tuple[InstanceItem, ...]:
        """List the images.

        Args:
            root: the folder that holds `stage1_train`.
            ids_file: one id a line; None takes every id, sorted.

        Raises:
            DataError: the folder or the list is missing, or there is no image.
        """
        folder = root / self.folder
        if not folder.is_dir():
            raise DataError.of(
                str(root),
                got=f"no folder {self.folder}",
                expected="BBBC038v1 as published",
                fix=f"give the folder that holds {self.folder}",
            )
        if ids_file is None:
            ids = sorted(path.name for path in folder.iterdir() if path.is_dir())
        else:
            ids = _read_lines(ids_file)
        return tuple(InstanceItem(folder / sample_id, self.class_name) for sample_id in ids)

    def scan(self, root: Path) -> Scan:
        """List the images, and those that the lists reserve for testing."""
        classes = () if self.class_name is None else (self.class_name,)
        train, test = (root / name for name in self.lists)
        if train.is_file() and test.is_file():
            apart = self.items(root, test)
            names = frozenset(item.name for item in apart)
            return Scan(classes, (*self.items(root, train), *apart), names)
        return Scan(classes, self.items(root))


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError as error:
        raise DataError.of(
            str(path), got=str(error.strerror), expected="a list of ids", fix="correct the path"
        ) from error


def read_bbbc038(
    root: Path, ids_file: Path | None = None, options: ReadOptions | None = None
) -> list[Sample]:
    """Read BBBC038v1's layout, `stage1_train/<id>/{images,masks}/*.png`.

    Args:
        root: the folder that holds `stage1_train`.
        ids_file: a text file with one id a line; None reads every id, sorted.
        options: page, channels and intensity of the images.

    Raises:
        DataError: a folder or file is missing, unreadable or of another size.
    """
    return [item.read(options) for item in InstanceFolders().items(root, ids_file)]
