"""Images of lists in COCO JSON: found on disk, and joined where several rows name one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cpcsam.errors import DataError
from training.data.datasets.coco_list import Annotation, CocoList, ListedImage
from training.data.datasets.folders import SUFFIXES
from training.data.datasets.image_index import Found, ImageIndex
from training.data.datasets.items import Findings

__all__ = ["Joined", "join_images", "names_of"]


@dataclass
class Joined:
    """An image file and the annotations of all rows that name it.

    Attributes:
        path: the file.
        listed: the first name that a list gives it.
        sources: the lists.
        size: (H, W); None if no list states it.
        annotations: of all rows, equal ones once.
    """

    path: Path
    listed: str
    sources: tuple[Path, ...]
    size: tuple[int, int] | None
    annotations: list[Annotation] = field(default_factory=list)


def join_images(lists: Sequence[CocoList], root: Path, findings: Findings) -> list[Joined]:
    """Find the images of all lists.

    A name in a list that no file bears at its place may stand for a file elsewhere, but not for one
    that another row names.

    Args:
        lists: what was read.
        root: the dataset's folder.
        findings: takes the rows whose files are missing.

    Raises:
        DataError: no image is found.
    """
    index = ImageIndex(root, SUFFIXES)
    found = [
        (listed, row, index.find(row.names, _places_of(listed.path, root)))
        for listed in lists
        for row in listed.images.values()
    ]
    claims: dict[Path, set[tuple[bool, tuple[str, ...]]]] = {}
    for _, row, file in found:
        if file.path is not None:
            claims.setdefault(file.path, set()).add((file.exact, row.names))
    joined: dict[Path, Joined] = {}
    for listed, row, file in found:
        if file.path is None or (not file.exact and len(claims[file.path]) > 1):
            _missing(listed, row, file, findings)
        elif file.path in joined:
            _join(joined[file.path], listed, row, findings)
        else:
            joined[file.path] = Joined(
                file.path, row.names[0], (listed.path,), row.size, list(row.annotations)
            )
    if not joined:
        first = next((row.names[0] for _, row, _ in found), "")
        raise DataError.of(
            str(lists[0].path),
            got=f"no image {first}" if first else "no images",
            expected=f"it below {root}",
            fix="put the images there",
        )
    return list(joined.values())


def _missing(listed: CocoList, row: ListedImage, file: Found, findings: Findings) -> None:
    name = row.names[0]
    if file.others:
        got = f"{file.others} files of this name, none of them at its place"
    elif file.path is not None:
        got = f"no such file, and {file.path} for several rows"
    else:
        got = "no such file"
    findings.lose(
        f"{listed.path}: image {name}", got=got, expected="one file below the root",
        fix="restore the image or remove the row", unit="images", reason="without a file",
    )  # fmt: skip
    findings.account.lose("annotations", "of images left out", len(row.annotations))


def _join(known: Joined, listed: CocoList, row: ListedImage, findings: Findings) -> None:
    """Add the annotations of another row to an image."""
    name = f"{listed.path}: image {row.names[0]}"
    if known.size and row.size and known.size != row.size:
        findings.lose(
            name, got=f"size {row.size}", expected=f"{known.size} as in another row of this file",
            fix="remove the row", unit="images", reason="listed again with another size",
        )  # fmt: skip
        findings.account.lose("annotations", "of images left out", len(row.annotations))
        return
    findings.account.pass_over("images", "listed again")
    # The outlines of a row without a size are checked when the image is read, and so are all.
    known.size = known.size and row.size
    if listed.path not in known.sources:
        known.sources = (*known.sources, listed.path)
    seen = {_content(annotation) for annotation in known.annotations}
    for annotation in row.annotations:
        if _content(annotation) in seen:
            findings.account.pass_over("annotations", "equal to another")
        else:
            known.annotations.append(annotation)


def _content(annotation: Annotation) -> Any:
    return annotation.class_name, repr(annotation.outline)


def names_of(images: Sequence[Joined], root: Path) -> list[str]:
    """Name images as their lists do, without the suffix, and apart: with folders where needed."""
    plain = [_stem(image.listed) for image in images]
    inside = [_inside(image.path, root) for image in images]
    counts = Counter(plain)
    names = [
        own if counts[own] == 1 else _stem(path) for own, path in zip(plain, inside, strict=True)
    ]
    counts = Counter(names)
    return [own if counts[own] == 1 else path for own, path in zip(names, inside, strict=True)]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _places_of(path: Path, root: Path) -> list[Path]:
    """List the folders in which the images of a list may lie, the likeliest first."""
    words = path.stem.removeprefix("instances_")
    # instances_val_trashcan has its images in val, instances_val2017 in val2017 or val.
    stems = [words, words.partition("_")[0], words.rstrip("0123456789")]
    places = [base / stem for base in (path.parent, root, root / "images") for stem in stems]
    places += [root / "images", root / "JPEGImages", path.parent, root]
    return list(dict.fromkeys(places))
