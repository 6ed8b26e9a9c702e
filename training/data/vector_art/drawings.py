"""Index of an installed collection of SVG drawings, one folder per category.

It is made for Debian's openclipart-svg, whose drawings are in the public domain. Parts of the data
are kept apart twice: by category, as three are for tests alone, and by content, as the SHA-256 of
a drawing decides its part. Equal files and links count once, files of one name are in one part,
and a drawing that is in two categories is left out.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection as Names
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cpcsam.errors import DataError

__all__ = ["HELD_OUT", "Collection", "Drawing", "Part", "open_collection"]

HELD_OUT = frozenset({"buttons", "special", "unsorted"})
"""Categories for tests alone: they name no kind of thing, so they are no classes either."""

MAX_BYTES = 400_000
FOLDERS = ("svg", ".")

Part = Literal["train", "validation", "test"]
TENTHS: Mapping[int, Part] = {0: "validation", 1: "test", 2: "test"}
"""Part of a drawing by its digest modulo 10; the others are for training."""


@dataclass(frozen=True)
class Drawing:
    """An SVG file.

    Attributes:
        path: of the file.
        category: the folder below the collection's that it is in.
        digest: SHA-256 of the file.
        part: of the data that it may appear in.
    """

    path: Path
    category: str
    digest: str
    part: Part


@dataclass(frozen=True)
class Collection:
    """Drawings that may be rendered, and the number of files left out.

    Attributes:
        drawings: sorted by path.
        left_out: number of files by reason.
        digest: SHA-256 of all drawings' digests and categories.
    """

    drawings: tuple[Drawing, ...]
    left_out: Mapping[str, int]
    digest: str

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories that are classes, sorted."""
        return tuple(sorted({drawing.category for drawing in self.drawings} - HELD_OUT))

    def of(self, part: Part | None, categories: Names[str]) -> dict[str, tuple[Drawing, ...]]:
        """Return the drawings of a part by category; None takes every part.

        Categories without a drawing are left out.
        """
        chosen: dict[str, list[Drawing]] = defaultdict(list)
        for drawing in self.drawings:
            if drawing.category in categories and part in (None, drawing.part):
                chosen[drawing.category].append(drawing)
        return {category: tuple(chosen[category]) for category in sorted(chosen)}


@functools.lru_cache(maxsize=2)
def open_collection(root: Path) -> Collection:
    """Index a collection by reading its files' bytes; nothing is rendered.

    Args:
        root: the folder that holds `svg`, or the folder of the categories itself.

    Raises:
        DataError: there is no drawing, or a file cannot be read.
    """
    places = [root / folder for folder in FOLDERS]
    found = next((place for place in places if any(place.glob("*/**/*.svg"))), None)
    if found is None:
        raise DataError.of(
            str(root),
            got="no drawing",
            expected="SVG files in one folder per category",
            fix="apt-get install openclipart-svg and give /usr/share/openclipart",
        )
    left_out: Counter[str] = Counter()
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(found.glob("*/**/*.svg")):
        if not path.is_file():
            left_out["a link to nothing"] += 1
        elif (size := path.stat().st_size) > MAX_BYTES:
            left_out[f"more than {MAX_BYTES // 1000} kB"] += 1
        elif not size:
            left_out["an empty file"] += 1
        else:
            files[_digest(path)].append(path)
    drawings: list[Drawing] = []
    decides: dict[str, str] = {}
    for digest, paths in sorted(files.items(), key=lambda item: item[1][0]):
        categories = {path.relative_to(found).parts[0] for path in paths}
        if len(categories) > 1:
            left_out["in several categories"] += len(paths)
            continue
        left_out["equal to another"] += len(paths) - 1
        # Versions of a drawing, which differ in their metadata alone, mostly have one name.
        first = decides.setdefault(paths[0].stem.lower(), digest)
        part = TENTHS.get(int(first[:8], 16) % 10, "train")
        drawings.append(Drawing(paths[0], categories.pop(), digest, part))
    whole = "".join(f"{drawing.digest} {drawing.category}\n" for drawing in drawings)
    return Collection(tuple(drawings), dict(+left_out), hashlib.sha256(whole.encode()).hexdigest())


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError.of(
            str(path), got=f"an unreadable file ({error})", expected="a drawing", fix="restore it"
        ) from error
