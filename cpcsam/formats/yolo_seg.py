"""YOLO segmentation: `data.yaml`, `images/NAME.png` and `labels/NAME.txt` with a polygon a mask.

Coordinates are boundary pixels as parts of width and height. Ultralytics cuts them to whole pixels,
supervision rounds them, and both fill the polygon with its boundary, which gives the mask, see
`keyhole`: just short of a pixel's centre, cutting and rounding agree.
Of equal masks of one class in an image Ultralytics reads only one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import DataError
from cpcsam.formats.fill import fill_with_boundary
from cpcsam.formats.keyhole import keyhole_polygon
from cpcsam.formats.losses import count_fields, drop_empty
from cpcsam.formats.parts import parts_of
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord
from cpcsam.formats.yolo_names import class_names
from cpcsam.images.formats import IMAGE_SUFFIXES
from cpcsam.images.options import ReadOptions
from cpcsam.images.reading import decode_image

__all__ = ["read", "write"]

LOST: Final = ("score", "stability", "prompt")
SUFFIXES: Final = frozenset(
    {".bmp", ".dng", ".heic", ".jpeg", ".jpg", ".mpo", ".pfm", ".png", ".tif", ".tiff", ".webp"}
)
"""Of images that Ultralytics reads, in lower case."""
DIGITS: Final = 8
WITHIN: Final = 0.49
"""Place within a pixel, from its corner: nearly its centre, but not rounded up."""
BEYOND: Final = 0.01
"""How far a coordinate may lie beyond the image, as Ultralytics has it: many tools round so."""
BOX_VALUES: Final = 5
"""Of a row that is a class and a box."""
MAX_DIGITS: Final = 9
"""Of the number of a class."""


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write labels, `data.yaml` and copies of images that are at hand; see `records.Format`."""
    losses = Losses()
    numbers: dict[str, int] = {}
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for image in images:
        rows: list[str] = []
        for mask in drop_empty(image.masks, losses):
            number = numbers.setdefault(mask.label, len(numbers))
            rows.append(f"{number} {_polygon(mask, image.size, losses)}\n")
        losses["masks equal to another, of which Ultralytics reads one"] += len(rows) - len({*rows})
        count_fields(image.masks, LOST, losses)
        write_atomic(folder / f"{_label_stem(image.name)}.txt", "".join(rows).encode())
        if image.path is None:
            losses["images that are not at hand; put them into images/"] += 1
        else:
            _put_image(image, image.path, folder / "images")
    names = "".join(f"  {number}: {_quoted(name)}\n" for name, number in numbers.items())
    text = f"train: images\nval: images\nnames:{' {}' if not numbers else ''}\n{names}"
    write_atomic(folder / "data.yaml", text.encode())
    return losses


def _put_image(image: ImageRecord, path: Path, folder: Path) -> None:
    """Copy an image's file, or write what was segmented of one that Ultralytics reads otherwise."""
    chosen = image.options or ReadOptions()
    # Of several pages it reads the first alone, and files of other suffixes it passes over.
    is_copied = not (chosen.page or chosen.channels) and path.suffix.lower() in SUFFIXES
    # The suffix is added to the whole name: a label file's name is that of the image.
    target = folder / f"{image.name}{path.suffix if is_copied else '.png'}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_copied:
        # No link: Ultralytics rewrites damaged JPEG files in place.
        shutil.copyfile(path, target)
    else:
        shown = decode_image(path.read_bytes(), options=image.options)
        Image.fromarray(shown).save(target)


def _label_stem(name: str) -> str:
    """Return the path of an image's label file without suffix, where Ultralytics looks for it.

    It exchanges the last folder `images` of the image's path for `labels`.
    """
    *folders, stem = f"images/{name}".split("/")
    folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return "/".join((*folders, stem))


def _quoted(name: str) -> str:
    """Quote a name for YAML, in which JSON's pairs of surrogates and a bare DEL are no text."""
    text = json.dumps(name, ensure_ascii=False).encode("ascii", "backslashreplace").decode()
    return text.replace("\x7f", "\\x7f")


def _polygon(mask: MaskRecord, size: tuple[int, int], losses: Losses) -> str:
    crop = mask.crop
    polygon = keyhole_polygon(crop)
    added = int((fill_with_boundary(polygon, crop.shape) != crop).sum())  # type: ignore[arg-type]
    if added:
        losses["masks of several parts, which are joined by lines"] += 1
        losses["pixels of these lines"] += added
    elif len(parts_of(crop)) > 1:
        losses["masks of several parts, which are joined"] += 1
    left, top = mask.box.left, mask.box.top
    points = (polygon + (left + WITHIN, top + WITHIN)) / (size[1], size[0])
    return " ".join(f"{value:.{DIGITS}g}" for value in points.ravel().tolist())


def read(folder: Path) -> Iterator[ListedImage]:
    """List the images of all folders `labels` below a folder, see `records.Format`.

    An image of `labels` lies at the same place in the sibling folder `images`.
    """
    files = [
        file
        for file in sorted(folder.rglob("*.txt"))
        if "labels" in file.relative_to(folder).parts[:-1] and file.stem != "classes"
    ]
    if not files:
        raise DataError.of(
            str(folder), got="no labels/*.txt", expected="labels of YOLO", fix="correct the path"
        )
    # Files may change between calls, but not within one.
    class_names.cache_clear()
    for file in files:
        names = class_names(file.parent, folder)
        rows = _rows(file)
        polygons = [row for row in rows if len(row) != BOX_VALUES]
        classes = tuple(_class(file, row[0], names) for row in polygons)
        left_out = Losses({"boxes": len(rows) - len(polygons)})
        name = _image_name(folder, file)
        yield ListedImage(
            name, classes, partial(_decode, file, classes), (file,), left_out=+left_out
        )


def _rows(file: Path) -> list[list[str]]:
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _damaged(file, "bytes that are no text") from error
    return [row.split() for row in text.splitlines() if row.strip()]


def _image_name(folder: Path, file: Path) -> str:
    """Return the path of a label file's image relative to the folder, or its stem."""
    parts = file.relative_to(folder).parts
    places = [place for place, part in enumerate(parts[:-1]) if part == "labels"]
    stems = [
        PurePosixPath(*parts[:place], "images", *parts[place + 1 : -1], file.stem)
        for place in reversed(places)
    ]
    suffixes = [suffix for shown in IMAGE_SUFFIXES for suffix in (shown, shown.upper())]
    names = (f"{stem}{suffix}" for stem in stems for suffix in suffixes)
    return next((name for name in names if (folder / name).is_file()), stems[0].as_posix())


def _class(file: Path, number: str, names: dict[int, str]) -> str:
    if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
        raise _damaged(file, f"the class {number[:20]!r}")
    return names.get(int(number), number)


def _decode(file: Path, classes: Iterable[str], size: tuple[int, int]) -> Iterator[MaskRecord]:
    height, width = size
    polygons = [row for row in _rows(file) if len(row) != BOX_VALUES]
    for row, label in zip(polygons, classes, strict=True):
        try:
            values = np.array([float(value) for value in row[1:]])
        except ValueError as error:
            raise _damaged(file, "coordinates that are no numbers") from error
        inside = (values >= -BEYOND).all() and (values <= 1 + BEYOND).all()
        if len(values) < 6 or len(values) % 2 or not inside:
            raise _damaged(
                file, f"a row of {len(values)} coordinates{'' if inside else ' beyond 1'}"
            )
        # float32, as Ultralytics reads them, would round some corners up to the next pixel.
        points = (values.reshape(-1, 2) * (width, height)).astype(np.int64)
        yield MaskRecord.of_mask(fill_with_boundary(points, size), label=label)


def _damaged(file: Path, got: str) -> DataError:
    return DataError.of(
        str(file), got=got, expected="rows of a class and x, y pairs from 0 to 1, at least three",
        fix="correct or remove the row",
    )  # fmt: skip
