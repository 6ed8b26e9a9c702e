"""Datasets in COCO JSON, with polygons and RLE masks: TrashCan, OceanCOCO and the user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cpcsam.errors import DataError
from training.data.datasets.files import find_folder, natural_key, read_rgb
from training.data.datasets.items import Findings, Item, Scan
from training.data.sample import Sample

__all__ = ["CocoFiles", "CocoItem"]

HELD_OUT = ("val", "test")
"""A list of annotations whose file name holds one of these is of test images."""


@dataclass(frozen=True)
class CocoItem(Item):
    """An image and its annotations; small entities cover large ones, crowds are left out.

    Attributes:
        image: the image file.
        listed: its name in the list.
        source: the list of annotations.
        size: (H, W) as the list has it.
        annotations: of this image, as the list has them.
        categories: class of each category id.
    """

    image: Path
    listed: str
    source: Path
    size: tuple[int, int]
    annotations: tuple[Mapping[str, Any], ...]
    categories: Mapping[int, str]

    @property
    def name(self) -> str:
        """The name in the list, without its suffix."""
        return str(Path(self.listed).with_suffix(""))

    @property
    def files(self) -> tuple[Path, ...]:
        """The image and the list."""
        return (self.image, self.source)

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes, from the annotation file."""
        ids: set[Any] = {annotation.get("category_id") for annotation in self.annotations}
        return frozenset(self.categories[i] for i in ids if i in self.categories)

    def load(self, findings: Findings) -> Sample | None:
        """Read the image and draw the annotations."""
        image = read_rgb(self.image, findings)
        if image is not None and image.shape[:2] != self.size:
            findings.broken(
                self.image,
                got=f"size {image.shape[:2]}",
                expected=f"{self.size} as in {self.source.name}, where its masks are",
                fix="restore the image that was annotated",
            )
            image = None
        drawn = [row for row in map(lambda a: self._draw(a, findings), self.annotations) if row]
        if image is None:
            return None
        instances = np.zeros(self.size, np.int32)
        drawn.sort(key=lambda row: -int(row[0].sum()))
        for label, (mask, _) in enumerate(drawn, start=1):
            instances[mask] = label
        return Sample(self.name, image, instances, tuple(name for _, name in drawn))

    def _draw(
        self, annotation: Mapping[str, Any], findings: Findings
    ) -> tuple[NDArray[np.bool_], str] | None:
        """Return mask and class of an annotation; None if it has none."""
        what = f"{self.source}: annotation {annotation.get('id')} of {self.image.name}"
        category: Any = annotation.get("category_id")
        if category not in self.categories:
            findings.broken(
                what,
                got=f"unknown class {category!r}",
                expected=f"one of the {len(self.categories)} ids in categories",
                fix="add the category or remove the annotation",
            )
            return None
        if annotation.get("iscrowd"):
            return None
        runs = _runs(annotation.get("segmentation"), self.size)
        if isinstance(runs, str):
            expected = f"polygons or run lengths of size {self.size}"
            findings.broken(what, got=runs, expected=expected, fix="correct the annotation")
            return None
        mask = coco_mask.decode(runs).astype(bool)
        if not mask.any():
            findings.empty(what)
            return None
        return mask, self.categories[category]


def _runs(segmentation: Any, size: tuple[int, int]) -> Any:
    """Convert a segmentation to the RLE of pycocotools, or describe its fault."""
    height, width = size
    if isinstance(segmentation, list):
        usable = segmentation and all(
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(isinstance(number, int | float) for number in polygon)
            for polygon in segmentation
        )
        if not usable:
            return "an empty mask" if not segmentation else "a polygon of less than three points"
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        return "no segmentation"
    if list(segmentation.get("size", ())) != [height, width]:
        return f"a mask of size {segmentation.get('size')}"
    counts = segmentation["counts"]
    if isinstance(counts, str):
        # pycocotools takes compressed run lengths as bytes, which JSON holds as text.
        return {"size": [height, width], "counts": counts.encode()}
    whole = isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts)
    if not whole or sum(counts) != height * width:
        return "run lengths that do not fill the image"
    return coco_mask.frPyObjects(segmentation, height, width)


@dataclass(frozen=True)
class CocoFiles:
    """Annotation files and the images that they name.

    Lists are `*.json` in the first folder that exists; a list `instances_NAME*.json` has its
    images in `NAME`, `images/NAME`, `images` or its own folder, whichever holds its first image.

    Attributes:
        folders: of the annotation files, relative to the root.
        apart: lists with val or test in their names are of test images.
    """

    folders: tuple[str, ...] = ("annotations", ".")
    apart: bool = True

    def scan(self, root: Path) -> Scan:
        """Read the lists.

        Raises:
            DataError: there is no list, one is no COCO JSON, or its images are not found.
        """
        folder = find_folder(root, *self.folders)
        # Lists of test images last, for datasets whose last images are the test images.
        paths = sorted(folder.glob("*.json"), key=lambda path: (_is_apart(path), path.name))
        if not paths:
            raise DataError.of(
                str(folder), got="no *.json", expected="COCO annotations", fix="correct the path"
            )
        items: list[CocoItem] = []
        classes: dict[str, None] = {}
        test: set[str] = set()
        for path in paths:
            listed = _read_list(path, root)
            classes |= dict.fromkeys(listed[0])
            items += listed[1]
            if self.apart and _is_apart(path):
                test |= {item.name for item in listed[1]}
        # If every list is of test images, setting them apart would leave nothing to train on.
        known = test if test and len(test) < len(items) else None
        return Scan(tuple(classes), tuple(items), None if known is None else frozenset(known))


def _is_apart(path: Path) -> bool:
    return any(word in path.stem.lower() for word in HELD_OUT)


def _read_list(path: Path, root: Path) -> tuple[tuple[str, ...], list[CocoItem]]:
    try:
        content = json.loads(path.read_bytes())
        categories = {int(row["id"]): str(row["name"]) for row in content["categories"]}
        images = {row["id"]: row for row in content["images"]}
        sizes = {key: (int(row["height"]), int(row["width"])) for key, row in images.items()}
        of_image: dict[Any, list[Mapping[str, Any]]] = {key: [] for key in images}
        for row in content["annotations"]:
            of_image[row["image_id"]].append(row)
        names = {key: str(row["file_name"]) for key, row in images.items()}
    except OSError as error:
        raise _bad_list(path, str(error.strerror)) from error
    except KeyError as error:
        raise _bad_list(path, f"no {error} where one is needed") from error
    except (ValueError, TypeError) as error:
        raise _bad_list(path, f"no COCO JSON ({error})") from error
    folder = _images_of(path, root, next(iter(names.values()), ""))
    keys = sorted(images, key=lambda key: natural_key(names[key]))
    items = [
        CocoItem(
            folder / names[key], names[key], path, sizes[key], tuple(of_image[key]), categories
        )
        for key in keys
    ]
    return tuple(dict.fromkeys(categories.values())), items


def _bad_list(path: Path, got: str) -> Exception:
    return DataError.of(
        str(path),
        got=got,
        expected="images, annotations and categories as COCO has them",
        fix="correct or restore the file",
    )


def _images_of(path: Path, root: Path, first: str) -> Path:
    words = path.stem.removeprefix("instances_")
    # instances_val_trashcan has its images in val, instances_val2017 in val2017 or val.
    stems = [words, words.partition("_")[0], words.rstrip("0123456789")]
    places = [base / stem for base in (path.parent, root, root / "images") for stem in stems]
    places += [root / "images", path.parent, root]
    for place in dict.fromkeys(places):
        if first and (place / first).is_file():
            return place
    raise DataError.of(
        str(path),
        got=f"no image {first}" if first else "no images",
        expected=f"it in {', '.join(dict.fromkeys(str(place) for place in places))}",
        fix="put the images into one of these folders",
    )
