"""Datasets in the formats of annotation tools: YOLO, GeoJSON, CVAT and Label Studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpcsam.errors import DataError
from cpcsam.formats import format_of
from cpcsam.formats.names import names_of
from cpcsam.formats.records import ListedImage
from training.data.datasets.coco import HELD_OUT
from training.data.datasets.files import read_rgb
from training.data.datasets.folders import SUFFIXES, natural_key
from training.data.datasets.image_index import Found, ImageIndex
from training.data.datasets.items import Findings, Item, Scan
from training.data.sample import Sample

__all__ = ["AnnotatedItem", "AnnotationFiles"]


@dataclass(frozen=True)
class AnnotatedItem(Item):
    """An image and its annotations; small entities cover large ones.

    Attributes:
        image: the image file.
        label: its name within the dataset.
        listed: its annotations, decoded when it is read.
    """

    image: Path
    label: str
    listed: ListedImage

    @property
    def name(self) -> str:
        """The name of the image without its suffix, with its folder if another has the same."""
        return self.label

    @property
    def files(self) -> tuple[Path, ...]:
        """The image and the files of annotations."""
        return (self.image, *self.listed.sources)

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes, from the annotations."""
        return frozenset(self.listed.classes)

    @property
    def outlines(self) -> int:
        """Number of annotations."""
        return len(self.listed.classes)

    def load(self, findings: Findings) -> Sample | None:
        """Read the image and draw the annotations."""
        image = read_rgb(self.image, findings)
        if image is None:
            return None
        size = (image.shape[0], image.shape[1])
        if self.listed.size not in (None, size):
            findings.broken(
                self.image, got=f"size {size}",
                expected=f"{self.listed.size} as in {self.listed.sources[0].name}",
                fix="restore the image that was annotated",
            )  # fmt: skip
            return None
        try:
            masks = list(self.listed.decode(size))
        except DataError as error:
            findings.add(error, "annotations", "damaged")
            return None
        for mask in masks:
            if not mask.counts:
                findings.empty(f"{self.listed.sources[0]}: {self.image.name}")
        areas = [int(np.count_nonzero(mask.crop)) for mask in masks]
        order = sorted((i for i in range(len(masks)) if areas[i]), key=lambda i: -areas[i])
        instances = np.zeros(size, np.int32)
        for label, index in enumerate(order, start=1):
            masks[index].box.crop(instances)[masks[index].crop] = label
        findings.drawn = len(order)
        findings.account.take("annotations", len(order))
        return Sample(self.name, image, instances, tuple(masks[i].label for i in order))


@dataclass(frozen=True)
class AnnotationFiles:
    """Files of a format of `cpcsam.formats` and the images that they name.

    Images are searched at the path that the files give, then by the end of that path and by name.
    Images below a folder named val, valid, validation or test are for testing.

    Attributes:
        format: its name.
    """

    format: str

    def scan(self, root: Path) -> Scan:
        """List the images.

        Raises:
            DataError: there is no file of the format, or none of its images is found.
        """
        if not root.is_dir():
            raise DataError.of(
                str(root), got="no such folder", expected=f"images and annotations, {self.format}",
                fix="give the folder that holds both",
            )  # fmt: skip
        findings = Findings(strict=False)
        index = ImageIndex(root, SUFFIXES)
        found: dict[Path, ListedImage] = {}
        for listed in format_of(self.format).read(root):
            for kind, count in listed.left_out.items():
                findings.lose(
                    listed.sources[0], got=f"{count} {kind} of {listed.file_name}",
                    expected="masks or polygons", fix="draw masks in their place",
                    unit="annotations", reason="no masks", count=count,
                )  # fmt: skip
            path, _, others = self._find(index, listed)
            if not listed.is_annotated:
                findings.lose(
                    f"{listed.sources[0]}: image {listed.file_name}", got="no annotation",
                    expected="one, empty where there is nothing", fix="annotate it",
                    unit="images", reason="not annotated",
                )  # fmt: skip
            elif path is None:
                findings.lose(
                    f"{listed.sources[0]}: image {listed.file_name}",
                    got=f"{others} files of this name" if others else "no such file",
                    expected="one file below the root",
                    fix="remove the others" if others else "restore the image",
                    unit="images", reason="without a file",
                )  # fmt: skip
                findings.account.lose("annotations", "of images left out", len(listed.classes))
            elif path in found:
                findings.lose(
                    f"{listed.sources[0]}: image {listed.file_name}",
                    got=f"{path}, which {found[path].sources[0]} has as well",
                    expected="an image once", fix="join the annotations", unit="images",
                    reason="listed again",
                )  # fmt: skip
                findings.account.lose("annotations", "of images left out", len(listed.classes))
            else:
                found[path] = listed
        if not found:
            raise DataError.of(
                str(root), got="no image of the annotations", expected="them below the folder",
                fix="put the images there",
            )  # fmt: skip
        return _scan(root, found, findings)

    def _find(self, index: ImageIndex, listed: ListedImage) -> Found:
        """Find the image file; a name without a suffix takes any, if there is one alone."""
        places = [index.root, *(source.parent for source in listed.sources)]
        if Path(listed.file_name).suffix.lower() in SUFFIXES:
            return index.find([listed.file_name], places)
        each = [index.find([f"{listed.file_name}{suffix}"], places) for suffix in sorted(SUFFIXES)]
        exact = [one for one in each if one.exact]
        found = exact or [one for one in each if one.path is not None or one.others]
        count = sum(max(one.others, 1) for one in found)
        return found[0] if count == 1 else Found(None, others=count)


def _scan(root: Path, found: Mapping[Path, ListedImage], findings: Findings) -> Scan:
    paths = sorted(found, key=lambda path: natural_key(str(path)))
    items = tuple(
        AnnotatedItem(path, name, found[path])
        for path, (_, name) in zip(paths, names_of(paths, root), strict=True)
    )
    test = frozenset(item.name for item in items if _is_held_out(item.image, root))
    classes = tuple(dict.fromkeys(name for path in paths for name in found[path].classes))
    return Scan(
        classes,
        items,
        test if 0 < len(test) < len(items) else None,
        account=findings.account,
        losses=tuple(findings.losses),
        lists=tuple(dict.fromkeys(path for each in found.values() for path in each.sources)),
    )


def _is_held_out(image: Path, root: Path) -> bool:
    inside = image.parent.relative_to(root) if image.is_relative_to(root) else Path()
    return HELD_OUT.search(inside.as_posix().lower()) is not None
