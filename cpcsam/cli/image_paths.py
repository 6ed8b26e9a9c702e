"""Expansion of files, folders and globs to image files, each with a name for its outputs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpcsam.errors import ConfigError
from cpcsam.formats import MARKER
from cpcsam.formats.names import names_of
from cpcsam.images.formats import IMAGE_SUFFIXES

__all__ = ["ImagePath", "count_left_out", "find_images"]


@dataclass(frozen=True)
class ImagePath:
    """Image file of a run.

    Attributes:
        path: of the file.
        file_name: POSIX path relative to the common folder of the run's images.
        name: the same without its suffix, unless another file differs by the suffix alone.
    """

    path: Path
    file_name: str
    name: str


def find_images(sources: Sequence[str]) -> list[ImagePath]:
    """Find image files in files, folders (recursively) and globs (with **), in sorted order.

    An explicitly named file is always taken. Folders and globs are filtered by image suffix,
    without hidden files and the images that `cpcsam segment` wrote.

    Args:
        sources: paths and globs, as on a command line.

    Raises:
        ConfigError: a source does not exist or holds no image.
    """
    unique: dict[Path, None] = {}
    roots: list[Path] = []
    for source in sources:
        root, files = _search(source)
        if not files:
            raise ConfigError.of(
                source,
                got="no image",
                expected=f"files that end in {', '.join(sorted(IMAGE_SUFFIXES))}",
                fix="correct the path",
            )
        # Not resolved: behind links, outputs keep the names that the user knows.
        roots.append(Path(os.path.abspath(root)))
        unique |= dict.fromkeys(Path(os.path.abspath(file)) for file in files)
    shared = Path(os.path.commonpath(roots))
    files = sorted(unique)
    return [
        ImagePath(
            Path(os.path.relpath(file)) if file.is_relative_to(Path.cwd()) else file,
            file_name,
            name,
        )
        for file, (file_name, name) in zip(files, names_of(files, shared), strict=True)
    ]


def count_left_out(sources: Sequence[str]) -> Counter[str]:
    """Count the files in folders and globs that `find_images` leaves out, by their suffix.

    Hidden files and the outputs of `cpcsam segment` do not count.

    Args:
        sources: as of `find_images`.
    """
    left_out: dict[Path, str] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files: Iterator[Path] = path.rglob("*")
            root = path
        elif glob.has_magic(source) and not path.exists():
            files = map(Path, glob.iglob(source, recursive=True))
            root = Path(*_until_magic(path.parts))
        else:
            continue
        for file in files:
            suffix = file.suffix.lower()
            hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
            is_other = suffix not in IMAGE_SUFFIXES and not hidden
            if is_other and file.is_file() and not _is_record(file, root):
                left_out[Path(os.path.abspath(file))] = suffix or "no suffix"
    return Counter(left_out.values())


def _is_record(file: Path, root: Path) -> bool:
    """Return whether a file other than an image was written by `cpcsam segment`."""
    if _is_in_format(file, root):
        return True
    if file.name in ("masks.json", "logits.npz"):
        return (file.parent / "masks.json").exists()
    return file.name == "coco.json"


def _search(source: str) -> tuple[Path, list[Path]]:
    """Return the root folder of a source and its image files."""
    path = Path(source)
    if path.is_dir():
        return path, list(_images(path.rglob("*"), path))
    # A file's own name may hold brackets.
    if glob.has_magic(source) and not path.exists():
        fixed = Path(*_until_magic(path.parts))
        return fixed, list(_images(map(Path, glob.iglob(source, recursive=True)), fixed))
    if not path.exists():
        raise ConfigError.of(
            source, got="No such file or directory", expected="an image", fix="correct the path"
        )
    return path.parent, [path]


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _images(files: Iterator[Path], root: Path) -> Iterator[Path]:
    for file in files:
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        if hidden or file.suffix.lower() not in IMAGE_SUFFIXES or _is_output(file, root):
            continue
        if file.is_file():
            yield file


def _is_output(file: Path, root: Path) -> bool:
    """Return whether an image was written by `cpcsam segment`."""
    if _is_in_format(file, root):
        return True
    if file.parent.name == "masks" and file.stem.isdigit():
        return (file.parent.parent / "masks.json").exists()
    return file.name == "overlay.png" and file.with_name("masks.json").exists()


def _is_in_format(file: Path, root: Path) -> bool:
    """Return whether a file lies in a folder below the root that `write_format` wrote."""
    below = file.relative_to(root).parents
    return any((root / folder / MARKER).exists() for folder in below if folder.parts)
