"""Datasets in COCO JSON, with polygons and RLE masks: TrashCan, OceanCOCO and the user's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco_mask

from cpcsam.errors import DataError
from training.data.datasets.coco_images import Joined, join_images, names_of
from training.data.datasets.coco_list import (
    Annotation,
    CocoList,
    NoInstancesError,
    is_other_list,
    read_list,
    short,
)
from training.data.datasets.files import read_rgb
from training.data.datasets.folders import find_folder, natural_key
from training.data.datasets.image_index import is_hidden
from training.data.datasets.items import Findings, Item, Scan
from training.data.datasets.outlines import Fault, checked_outline, runs_of
from training.data.sample import Sample

__all__ = ["CocoFiles", "CocoItem"]

HELD_OUT: Final = re.compile(
    r"(?:^|[^a-z])(?:val|valid|validation|test)(?:ing|set|data)?(?:[^a-z]|$)"
)
"""A list of annotations whose file or folder name has one of these words is of test images."""

DEEPEST: Final = 3
"""Folders below the root in which lists are searched if the named ones hold none."""


@dataclass(frozen=True)
class CocoItem(Item):
    """An image and its annotations; small entities cover large ones.

    Attributes:
        image: the image file.
        label: its name within the dataset.
        sources: the lists that name it.
        size: (H, W) as the list has it; None if it does not.
        annotations: of this image.
    """

    image: Path
    label: str
    sources: tuple[Path, ...]
    size: tuple[int, int] | None
    annotations: tuple[Annotation, ...]

    @property
    def name(self) -> str:
        """The name in the list without its suffix, with its folder if another has the same."""
        return self.label

    @property
    def files(self) -> tuple[Path, ...]:
        """The image and the lists."""
        return (self.image, *self.sources)

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes, from the annotation file."""
        return frozenset(annotation.class_name for annotation in self.annotations)

    @property
    def outlines(self) -> int:
        """Number of annotations."""
        return len(self.annotations)

    def load(self, findings: Findings) -> Sample | None:
        """Read the image and draw the annotations."""
        image = read_rgb(self.image, findings)
        if image is None:
            return None
        size = (image.shape[0], image.shape[1])
        if self.size not in (None, size):
            findings.broken(
                self.image,
                got=f"size {size}",
                expected=f"{self.size} as in {self.sources[0].name}, where its masks are",
                fix="restore the image that was annotated",
            )
            return None
        # Decoded one at a time: masks of all entities can be larger than the memory.
        drawn = sorted(self._runs(size, findings), key=lambda row: -row[0])
        instances = np.zeros(size, np.int32)
        for label, (_, runs, _) in enumerate(drawn, start=1):
            instances[coco_mask.decode(runs).view(bool)] = label
        findings.drawn = len(drawn)
        findings.account.take("annotations", len(drawn))
        return Sample(self.name, image, instances, tuple(name for _, _, name in drawn))

    def _runs(self, size: tuple[int, int], findings: Findings) -> Iterator[tuple[int, Any, str]]:
        """Iterate over area, RLE and class of the annotations that have a pixel."""
        for annotation in self.annotations:
            outline: Any = annotation.outline
            if self.size is None:
                outline = checked_outline(outline, size, findings.account.changed)
            what = f"{self.sources[0]}: annotation {short(annotation.id)} of {self.image.name}"
            if isinstance(outline, Fault):
                findings.lose(
                    what,
                    got=outline.got,
                    expected=f"polygons or run lengths of size {size}",
                    fix="correct or remove the row",
                    unit="annotations",
                    reason=outline.reason,
                )
                continue
            runs = runs_of(outline, size)
            area = int(coco_mask.area(runs))
            if area:
                yield area, runs, annotation.class_name
            else:
                findings.empty(what)


@dataclass(frozen=True)
class CocoFiles:
    """Annotation files and the images that they name.

    Lists are `*.json` in the first folder that holds one, else in folders up to three below the
    root. A list `instances_NAME*.json` has its images in `NAME`, `images/NAME`, `images`,
    `JPEGImages` or its own folder; an image that is in none of them is searched below the root, by
    the end of its path and then by its name.

    Attributes:
        folders: of the annotation files, relative to the root.
        apart: lists with val or test in their names are of test images.
        crowds: read annotations with `iscrowd` as entities.
    """

    folders: tuple[str, ...] = ("annotations", ".")
    apart: bool = True
    crowds: bool = False

    def scan(self, root: Path) -> Scan:
        """Read the lists.

        Raises:
            DataError: there is no list, or none can be used, or none of its images is found.
        """
        findings = Findings(strict=False)
        lists, refused = self._lists(root, findings)
        images = join_images(lists, root, findings)
        items = [
            CocoItem(found.path, name, found.sources, found.size, tuple(found.annotations))
            for found, name in zip(images, names_of(images, root), strict=True)
        ]
        # Lists of test images last, for datasets whose last images are the test images.
        apart = {path for path in (listed.path for listed in lists) if _is_apart(path, root)}
        order = [_order(found, lists, apart) for found in images]
        items = [items[index] for index in sorted(range(len(items)), key=order.__getitem__)]
        test = frozenset(item.name for item in items if not apart.isdisjoint(item.sources))
        # If every list is of test images, setting them apart would leave nothing to train on.
        known = test if self.apart and 0 < len(test) < len(items) else None
        classes = dict.fromkeys(name for listed in lists for name in listed.classes)
        seen: Counter[str] = Counter()
        for item in items:
            seen.update(item.classes or ())
        used = tuple(name for name in classes if seen[name]) or tuple(classes)
        return Scan(
            used,
            tuple(items),
            known,
            account=findings.account,
            losses=tuple(findings.losses),
            lists=tuple(listed.path for listed in lists),
            refused=refused,
            unused=tuple(name for name in classes if name not in used),
        )

    def _lists(self, root: Path, findings: Findings) -> tuple[Sequence[CocoList], tuple[Path, ...]]:
        """Read the lists of the first place that has any; return them and the refused ones.

        Raises:
            DataError: no place has one.
        """
        errors: dict[Path, DataError] = {}
        if not root.is_dir():
            raise DataError.of(
                str(root), got="no such folder", expected="COCO annotations and images",
                fix="give the folder that the dataset was unpacked in",
            )  # fmt: skip
        for paths in _places(root, self.folders):
            # MS COCO's list of keypoints repeats its instances, so it counts only if it is alone.
            plain = [path for path in paths if not is_other_list(path)]
            for chosen in (plain, [path for path in paths if path not in plain]):
                read: list[CocoList] = []
                for path in chosen:
                    try:
                        listed = read_list(path, findings, self.crowds)
                    except DataError as error:
                        errors[path] = error
                    else:
                        read += [listed] if listed else []
                if read:
                    read.sort(key=lambda one: (_is_apart(one.path, root), one.path.as_posix()))
                    return read, _tell(errors, findings)
        if errors:
            raise next(iter(errors.values()))
        raise DataError.of(
            str(root), got="no *.json", expected="COCO annotations", fix="correct the path"
        )


def _tell(errors: Mapping[Path, DataError], findings: Findings) -> tuple[Path, ...]:
    """Record lists that could not be used while others could; return them."""
    refused = [path for path, error in errors.items() if not isinstance(error, NoInstancesError)]
    findings.losses += [str(errors[path]) for path in refused]
    if refused:
        findings.account.lose("files", "unusable lists", len(refused))
    return tuple(refused)


def _places(root: Path, folders: Sequence[str]) -> Iterator[list[Path]]:
    """Iterate over the lists of each folder in which lists are searched."""
    for folder in folders:
        try:
            yield _json_in(find_folder(root, folder))
        except DataError:
            continue
    deeper = ("*/" * depth + "*.json" for depth in range(1, DEEPEST + 1))
    yield [path for pattern in deeper for path in sorted(root.glob(pattern)) if _is_list(path)]


def _json_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if _is_list(path)]


def _is_list(path: Path) -> bool:
    return not is_hidden(path.name) and path.is_file()


def _is_apart(path: Path, root: Path) -> bool:
    inside = path.relative_to(root).with_suffix("").as_posix().lower()
    return HELD_OUT.search(inside) is not None


def _order(found: Joined, lists: Sequence[CocoList], apart: set[Path]) -> Any:
    ranks = [rank for rank, listed in enumerate(lists) if listed.path in found.sources]
    held_out = not apart.isdisjoint(found.sources)
    return (held_out, max(ranks) if held_out else min(ranks), natural_key(found.listed))
