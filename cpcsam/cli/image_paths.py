"""Files, folders and globs as the images that they mean, each with a name for its outputs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.errors import ConfigError

__all__ = ["ImagePath", "find_images"]

SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImagePath:
    """An image file.

    Attributes:
        path: of the file.
        file_name: its path below the folder that holds all images of a run, with slashes.
        name: the same without its suffix, unless another file differs by that alone.
    """

    path: Path
    file_name: str
    name: str


def find_images(sources: Sequence[str]) -> list[ImagePath]:
    """Find the images of files, folders (with all below them) and globs (** too), in sorted order.

    A file that is named itself is taken whatever it is; of others, those with the suffix of an
    image, but for hidden files and the pictures that `segment_files` wrote.

    Args:
        sources: as given on a command line.

    Raises:
        ConfigError: a source that is not there, or holds no image.
    """
    found: dict[Path, None] = {}
    roots: list[Path] = []
    for source in sources:
        root, files = _search(source)
        if not files:
            raise ConfigError.of(
                source,
                got="no image",
                expected=f"files that end in {', '.join(sorted(SUFFIXES))}",
                fix="correct the path",
            )
        roots.append(Path(os.path.abspath(root)))
        found |= dict.fromkeys(Path(os.path.abspath(file)) for file in files)
    shared = Path(os.path.commonpath(roots))
    inside = {file: file.relative_to(shared) for file in sorted(found)}
    stems = Counter(path.with_suffix("") for path in inside.values())
    return [
        ImagePath(
            Path(os.path.relpath(file)) if file.is_relative_to(Path.cwd()) else file,
            path.as_posix(),
            (path if stems[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix(),
        )
        for file, path in inside.items()
    ]


def _search(source: str) -> tuple[Path, list[Path]]:
    """The folder that a source is about, and its files."""
    path = Path(source)
    if path.is_dir():
        return path, list(_images(path.rglob("*"), path))
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
        if hidden or file.suffix.lower() not in SUFFIXES or _is_output(file):
            continue
        if file.is_file():
            yield file


def _is_output(file: Path) -> bool:
    """Whether a picture is one that `segment_files` wrote."""
    if file.parent.name == "masks" and file.stem.isdigit():
        return (file.parent.parent / "masks.json").exists()
    return file.name == "overlay.png" and file.with_name("masks.json").exists()
