"""Lists of annotations in COCO JSON, row by row: what can be read is, the rest is named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from cpcsam.errors import DataError
from training.data.datasets.items import Findings
from training.data.datasets.outlines import Fault, Outline, checked_outline

__all__ = ["Annotation", "CocoList", "ListedImage", "is_other_list", "read_list", "short"]

OTHER_LISTS: Final = re.compile(
    r"^(captions|keypoints|person_keypoints|stuff|panoptic|image_info|unlabeled)(_|-|\d|$)"
)
"""Names of MS COCO's lists that hold no instances, or the same ones again."""

OTHER_CONTENT: Final = {"caption", "segments_info"}
MAX_SIDE: Final = 1_000_000


class Annotation(NamedTuple):
    """An outline that was checked, or is to be once its image's size is known.

    Attributes:
        id: as the list has it.
        class_name: name of its category.
        outline: checked if the list states the image's size.
    """

    id: Any
    class_name: str
    outline: Outline


@dataclass
class ListedImage:
    """A row of `images`.

    Attributes:
        names: what the list calls the file, without backslashes; the likeliest first.
        size: (H, W); None if the list does not state it.
        annotations: of this image.
    """

    names: tuple[str, ...]
    size: tuple[int, int] | None
    annotations: list[Annotation] = field(default_factory=list)


@dataclass(frozen=True)
class CocoList:
    """A list that was read.

    Attributes:
        path: the file.
        classes: of its categories, in their order.
        images: by id.
    """

    path: Path
    classes: tuple[str, ...]
    images: Mapping[Any, ListedImage]


def is_other_list(path: Path) -> bool:
    """Return whether a list's name says that it holds captions, keypoints or stuff."""
    return OTHER_LISTS.search(path.stem.lower()) is not None


def short(value: object, length: int = 60) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def read_list(path: Path, findings: Findings, crowds: bool = False) -> CocoList | None:
    """Read a list of annotations.

    Args:
        path: the file.
        findings: takes the rows that are left out.
        crowds: read annotations with `iscrowd` as well.

    Returns:
        The list; None for JSON that lists no instances.

    Raises:
        DataError: the file is no JSON, or ids are given twice.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise _bad_list(path, str(error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise _bad_list(path, f"no COCO JSON ({type(error).__name__}: {error})") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list | dict):
            raise NoInstancesError.of(
                str(path),
                got=f"no {key!r} where one is needed",
                expected="images, annotations and categories as COCO has them",
                fix="correct or restore the file",
            )
    rows = _Rows(path, content, findings)
    if any(OTHER_CONTENT & row.keys() for _, row in rows.of("annotations", report=False)):
        return None
    classes = rows.categories()
    images = rows.images()
    rows.annotations(images, classes, crowds)
    return CocoList(path, tuple(dict.fromkeys(classes.values())), images)


class NoInstancesError(DataError):
    """A JSON file that is no list of instances."""


def _bad_list(path: Path, got: str) -> DataError:
    return DataError.of(
        str(path),
        got=got,
        expected="images, annotations and categories as COCO has them",
        fix="correct or restore the file",
    )


@dataclass(frozen=True)
class _Rows:
    path: Path
    content: Mapping[str, Any]
    findings: Findings

    def of(self, key: str, report: bool = True) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Iterate over the rows of a list or of an object by id, with the id of each."""
        rows = self.content[key]
        pairs = rows.items() if isinstance(rows, dict) else enumerate(rows)
        for place, row in pairs:
            if isinstance(row, dict):
                yield _key(row.get("id", place if isinstance(rows, dict) else None)), row
            elif report:
                self._lose(key, f"row {place} of {key}", short(row), "an object", "no object")

    def _lose(self, key: str, what: str, got: str, expected: str, reason: str) -> None:
        unit: Any = key if key in ("images", "annotations") else None
        self.findings.lose(
            f"{self.path}: {what}", got=got, expected=expected,
            fix="correct or remove the row", unit=unit, reason=reason,
        )  # fmt: skip

    def _require_once(self, key: str, rows: list[tuple[Any, dict[str, Any]]]) -> None:
        """Refuse rows of equal ids, whose annotations cannot be distinguished."""
        named: dict[Any, dict[str, None]] = {}
        for identity, row in rows:
            named.setdefault(identity, {})[_label(row)] = None
        for identity, names in named.items():
            if len(names) > 1:
                raise DataError.of(
                    f"{self.path}: {key}",
                    got=f"id {short(identity)} for {' and '.join(list(names)[:3])}",
                    expected="every id once",
                    fix=f"renumber the {key}, and their annotations with them",
                )

    def categories(self) -> dict[Any, str]:
        """Read the class of each category id."""
        rows = []
        for identity, row in self.of("categories"):
            name = row.get("name")
            if identity is None or not isinstance(name, str | int) or not str(name).strip():
                self._lose(
                    "categories",
                    "a category",
                    f"id {short(row.get('id'))} and name {short(name)}",
                    "an id and a name",
                    "no id or name",
                )
            else:
                rows.append((identity, row))
        self._require_once("categories", rows)
        return {identity: str(row["name"]).strip() for identity, row in rows}

    def images(self) -> dict[Any, ListedImage]:
        """Read the images by id."""
        rows = []
        for identity, row in self.of("images"):
            names = _names(row)
            if identity is None or not names:
                got = f"id {short(row.get('id'))} and file_name {short(row.get('file_name'))}"
                expected = "an id and the name of a file"
                self._lose("images", "an image", got, expected, "without a name or id")
            else:
                rows.append((identity, row))
        self._require_once("images", rows)
        images = {}
        for identity, row in rows:
            if identity in images:
                self.findings.account.pass_over("images", "listed again")
            images[identity] = ListedImage(_names(row), _size(row))
        return images

    def annotations(
        self, images: Mapping[Any, ListedImage], classes: Mapping[Any, str], crowds: bool
    ) -> None:
        """Add the annotations to their images."""
        skipped = 0
        for identity, row in self.of("annotations"):
            what = f"annotation {short(row.get('id', identity))}"
            image = images.get(_key(row.get("image_id")))
            if image is None:
                got, reason = f"image_id {short(row.get('image_id'))}", "of no listed image"
                self._lose("annotations", what, got, "the id of a listed image", reason)
                continue
            what = f"{what} of {PurePosixPath(image.names[0]).name}"
            name = classes.get(_key(row.get("category_id")))
            if name is None:
                got = f"unknown class {short(row.get('category_id'))}"
                expected = f"one of the {len(classes)} ids in categories"
                self._lose("annotations", what, got, expected, "of an unknown class")
                continue
            if _is_crowd(row.get("iscrowd")) and not crowds:
                skipped += 1
                continue
            outline: Any = row.get("segmentation")
            if image.size is not None:
                outline = checked_outline(outline, image.size, self.findings.account.changed)
            if isinstance(outline, Fault):
                expected = f"polygons or run lengths of size {image.size}"
                self._lose("annotations", what, outline.got, expected, outline.reason)
                continue
            image.annotations.append(Annotation(row.get("id", identity), name, outline))
        if skipped:
            self.findings.lose(
                self.path,
                got=f"{skipped} annotations with iscrowd",
                expected="single entities",
                fix="read crowds as entities with --crowds or data.train.crowds=true, if they are",
                unit="annotations", reason="crowds", count=skipped,
            )  # fmt: skip


def _key(value: object) -> Any:
    """Return an id as rows are matched by it; None if it is none. "7" and 7.0 are 7."""
    if isinstance(value, str):
        plain = value.strip()
        number = plain.isascii() and plain.isdecimal() and str(int(plain)) == plain
        return int(plain) if number else plain or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _label(row: Mapping[str, Any]) -> str:
    return short(row.get("file_name", row.get("name")))


def _names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a file that a row gives, with `/`, if they can be names of files."""
    given = (row.get("file_name"), row.get("path"))
    plain = [name.strip().replace("\\", "/") for name in given if isinstance(name, str)]
    return tuple(name for name in plain if PurePosixPath(name).name not in ("", "..", "."))


def _size(row: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = (_key(row.get(side)) for side in ("height", "width"))
    whole = all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in (height, width))
    return (height, width) if whole else None


def _is_crowd(value: object) -> bool:
    return value in (1, "1") or str(value).lower() == "true"
