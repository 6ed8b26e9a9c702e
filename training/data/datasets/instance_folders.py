"""Datasets with a folder per image and a binary mask per entity: BBBC038v1."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpcsam.errors import DataError
from cpcsam.images.options import ReadOptions
from training.data.datasets.files import read_binary, read_rgb, size_fits
from training.data.datasets.folders import read_text
from training.data.datasets.image_index import is_hidden
from training.data.datasets.items import Findings, Item, Scan
from training.data.datasets.pairs import without_mask
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
        return (self.image, *self._masks())

    @property
    def image(self) -> Path:
        """The image file."""
        return self.folder / "images" / f"{self.name}.png"

    @property
    def classes(self) -> frozenset[str] | None:
        """The only class."""
        return None if self.class_name is None else frozenset({self.class_name})

    def _masks(self) -> list[Path]:
        folder = self.folder / "masks"
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [folder / name for name in names if name.endswith(".png") and not is_hidden(name)]

    @property
    def outlines(self) -> int:
        """Number of masks."""
        return len(self._masks())

    def load(self, findings: Findings) -> Sample | None:
        """Read image and masks; of overlapping masks the later wins."""
        image = read_rgb(self.image, findings)
        paths = self._masks()
        if not paths:
            findings.broken(
                self.folder,
                got="no masks",
                expected="masks/*.png",
                fix="restore or drop this image",
            )
        instances = None if image is None else np.zeros(image.shape[:2], np.int32)
        drawn = 0
        for index, path in enumerate(paths, start=1):
            mask = read_binary(path, findings)
            if mask is None:
                continue
            if not mask.any():
                findings.empty(path)
            elif instances is not None and size_fits(path, mask, instances.shape, findings):
                instances[mask] = index
                drawn += 1
        findings.drawn = drawn
        findings.account.take("annotations", drawn)
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
            ids = sorted(
                path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)
            )
        else:
            ids = [sample_id for line in read_text(ids_file) for sample_id in line.split()]
        return tuple(InstanceItem(folder / sample_id, self.class_name) for sample_id in ids)

    def scan(self, root: Path) -> Scan:
        """List the images, and those that the lists reserve for testing."""
        classes = () if self.class_name is None else (self.class_name,)
        train, test = (root / name for name in self.lists)
        findings = Findings(strict=False)
        names = None
        if train.is_file() and test.is_file():
            apart = self._found(self.items(root, test), test, findings)
            names = frozenset(item.name for item in apart)
            items = self._found(self.items(root, train), train, findings, known=names) + apart
        else:
            items = self._found(self.items(root), root, findings)
        return Scan(
            classes,
            tuple(items),
            names,
            account=findings.account,
            losses=tuple(findings.losses),
            lists=() if names is None else (train, test),
        )

    def _found(
        self,
        items: tuple[InstanceItem, ...],
        listing: Path,
        findings: Findings,
        known: frozenset[str] = frozenset(),
    ) -> tuple[InstanceItem, ...]:
        """Return the images that exist and have masks, each once and none that is known."""
        kept: dict[str, InstanceItem] = {}
        for item in items:
            if item.name in kept:
                findings.account.pass_over("images", "listed again")
            elif item.name in known:
                findings.lose(
                    f"{listing}: {item.name}", got="an image that is tested on, too",
                    expected="each in one list", fix="remove it from one of them",
                    unit="images", reason="in both lists",
                )  # fmt: skip
            elif not item.folder.is_dir():
                findings.lose(
                    f"{listing}: {item.name}", got="no such folder",
                    expected=f"it in {self.folder}", fix="restore it or remove the line",
                    unit="images", reason="without a file",
                )  # fmt: skip
            elif not item.image.is_file():
                findings.lose(
                    item.image, got="no such file", expected="an image",
                    fix="restore it or move its masks away",
                    unit="images", reason="without a file",
                )  # fmt: skip
                findings.account.lose("annotations", "without an image", item.outlines)
            elif not item.outlines:
                without_mask(item.image, findings)
            else:
                kept[item.name] = item
        return tuple(kept.values())


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
