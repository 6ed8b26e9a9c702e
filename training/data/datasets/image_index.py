"""Index of the image files below a folder, found by path, by the end of a path, then by name."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["Found", "ImageIndex", "composed", "is_hidden", "walk_files"]

DRIVE = re.compile(r"^([a-zA-Z]:/|file:/+)")
HIDDEN = {"thumbs.db", "desktop.ini", "__macosx"}
BESIDE = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "preview", "previews"),
    *("thumbnail", "thumbnails", "overlay", "overlays", "prediction", "predictions"),
}


def is_hidden(name: str) -> bool:
    """Return whether a file is a system's own: `._NAME` of macOS, `.NAME`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in HIDDEN


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which names are compared.

    macOS and the archives it makes have names in the decomposed form, other systems and lists of
    annotations mostly in the composed one.
    """
    return unicodedata.normalize("NFC", name)


def walk_files(root: Path) -> Iterator[str]:
    """List the files below a folder as paths relative to it, with `/`; links are followed once."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else f"{inside.replace(os.sep, '/')}/"
        yield from (prefix + name for name in sorted(names))


class Found(NamedTuple):
    """Result of a search.

    Attributes:
        path: the file; None if there is none or more than one.
        exact: the file lies where the list says, rather than elsewhere under this name.
        others: number of files of that name if there are several.
    """

    path: Path | None
    exact: bool = False
    others: int = 0


class ImageIndex:
    """Files below a root, listed once when the first is searched.

    Args:
        root: the dataset's folder.
        suffixes: of the files that count, in lower case.
    """

    def __init__(self, root: Path, suffixes: Iterable[str]) -> None:
        self.root = root
        self.suffixes = frozenset(suffixes)

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Paths by themselves and by their composed form."""
        paths = [
            path
            for path in walk_files(self.root)
            if posixpath.splitext(path)[1].lower() in self.suffixes
            and not any(map(is_hidden, path.split("/")))
        ]
        return {composed(path): path for path in paths} | {path: path for path in paths}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        named: dict[str, list[str]] = {}
        for path in sorted(set(self._paths.values())):
            named.setdefault(_folded(posixpath.basename(path)), []).append(path)
        return named

    def find(self, names: Sequence[str], places: Sequence[Path]) -> Found:
        """Find an image.

        Args:
            names: what a list calls it, with or without folders, the likeliest first.
            places: folders in which a name may lie, the likeliest first.
        """
        plain = [variant for name in names for variant in _variants(name)]
        relative = [posixpath.relpath(place.as_posix(), self.root.as_posix()) for place in places]
        for name in plain:
            for place in relative:
                path = posixpath.normpath(posixpath.join(place, name))
                own = self._paths.get(path) or self._paths.get(composed(path))
                if own is not None:
                    return Found(self.root / own, exact=True)
        outside = self._outside(plain, places)
        if outside is not None:
            return Found(outside, exact=True)
        ends = [self._ending(name) for name in plain]
        unique = (found for found in ends if found.path is not None)
        several = (found for found in ends if found.others)
        return next(unique, None) or next(several, Found(None))

    def _outside(self, names: Sequence[str], places: Sequence[Path]) -> Path | None:
        """Return an image that a list names by an absolute path or one that leaves the root."""
        for name in names:
            if name.startswith(("/", "..")) and "\0" not in name:
                for place in places:
                    if _is_file(place / name):
                        return place / name
        return None

    def _ending(self, name: str) -> Found:
        """Find the only file whose path ends as a name does, by the longest end that any has."""
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        if not parts:
            return Found(None)
        alike = self._by_name.get(_folded(parts[-1]), [])
        # Masks and previews have the names of their images, and are none unless a list says so.
        images = [path for path in alike if not _beside(path) - {*map(str.casefold, parts)}]
        alike = images or (alike if len(parts) == 1 else [])
        # A file whose case differs counts if there is no other.
        name = composed(parts[-1])
        alike = [path for path in alike if composed(posixpath.basename(path)) == name] or alike
        for start in range(len(parts)):
            end = "/" + _folded("/".join(parts[start:]))
            matching = [path for path in alike if f"/{_folded(path)}".endswith(end)]
            if matching:
                only = self.root / matching[0] if len(matching) == 1 else None
                return Found(only, others=len(matching) if only is None else 0)
        return Found(None)


def _folded(name: str) -> str:
    return composed(name).casefold()


def _beside(path: str) -> set[str]:
    """Return the folders of a path that hold what lies beside images."""
    return {folder.casefold() for folder in path.split("/")[:-1]} & BESIDE


def _variants(name: str) -> list[str]:
    """Return a listed name with `/` and without a drive, also with `%20` and the like decoded."""
    plain = DRIVE.sub("/", name.strip().replace("\\", "/"))
    return [plain] if "%" not in plain else [plain, unquote(plain)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A name can be longer than the file system takes.
        return False
