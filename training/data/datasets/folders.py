"""Folders and text files of a dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cpcsam.errors import DataError
from cpcsam.images.formats import IMAGE_SUFFIXES
from training.data.datasets.image_index import is_hidden, walk_files
from training.data.datasets.items import Findings

__all__ = [
    "RAW_SUFFIX",
    "SUFFIXES",
    "find_folder",
    "image_below",
    "images_in",
    "natural_key",
    "read_text",
]

RAW_SUFFIX: Final = ".img"
SUFFIXES: Final = {*IMAGE_SUFFIXES, RAW_SUFFIX}
"""Suffixes of images and masks, in lower case."""


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a natural sort key, under which 2 comes before 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    # Tuples of one shape, as an int and a str cannot be compared; numbers by their length first,
    # as Python converts none of thousands of digits.
    return tuple(
        (0, len(part.lstrip("0")), part.lstrip("0")) if part[0] in "0123456789" else (1, 0, part)
        for part in parts
    )


def find_folder(root: Path, *candidates: str) -> Path:
    """Find the first existing folder of a list, `A/B` below root, ignoring case.

    Raises:
        DataError: there is none.
    """
    for candidate in candidates:
        folder: Path | None = root
        for part in Path(candidate).parts:
            folder = folder and _child(folder, part)
        if folder is not None:
            return folder
    raise DataError.of(
        str(root),
        got="no such folder" if not root.is_dir() else f"no folder {candidates[0]}",
        expected=" or ".join(candidates),
        fix="give the folder that the dataset was unpacked in",
    )


def _child(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        return None
    if (folder / name).is_dir():
        return folder / name
    alike = (path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower())
    return next((path for path in alike if path.is_dir()), None)


def images_in(folder: Path, *, below: bool = False) -> list[Path]:
    """List the images of a folder.

    Args:
        folder: the folder.
        below: list those in folders below it as well.

    Raises:
        DataError: there are none.
    """
    paths = list(_images(folder, walk_files(folder) if below else os.listdir(folder)))
    if not paths:
        deeper = image_below(folder)
        raise DataError.of(
            str(folder),
            got="no images" if deeper is None else f"images in sub-folders, such as {deeper}",
            expected="image files directly in it",
            fix="unpack the images there" if deeper is None else "move them there",
        )
    return paths


def image_below(folder: Path) -> Path | None:
    """Return an image in a folder or below it; None if there is none."""
    return next(_images(folder, walk_files(folder)), None)


def _images(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    paths = (folder / name for name in names if not any(map(is_hidden, name.split("/"))))
    return (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def read_text(path: Path, findings: Findings | None = None) -> list[str]:
    """Read the lines of a text file without empty ones: UTF-8, UTF-16 with a mark, or Latin-1.

    Raises:
        DataError: it is missing, unreadable or no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError.of(
            str(path),
            got=str(error.strerror),
            expected="a text file of ids or classes",
            fix="correct the path",
        ) from error
    marked = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        if findings is not None:
            findings.account.changed[f"{path.name} not in UTF-8, read as Latin-1"] += 1
    if "\0" in text:
        raise DataError.of(
            str(path), got="a binary file", expected="lines of text", fix="restore it"
        )
    return [line.strip() for line in text.splitlines() if line.strip()]
