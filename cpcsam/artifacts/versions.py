"""Versions: a folder of numbered artifacts and a link, `current`, to the one in use.

    build/repository/1/            an artifact with its manifest
    build/repository/2/            a later one
    build/repository/current -> 2

A version gets its number by a rename when it is whole, is never altered afterwards, and the link
moves by a rename too. So whoever follows the link finds one whole version or another, and whoever
resolved it keeps what was found.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import MANIFEST_NAME, read_manifest
from cpcsam.errors import ArtifactError, CpcSamError

__all__ = [
    "CURRENT",
    "current_version",
    "list_versions",
    "resolve_version",
    "roll_back",
    "switch_to",
    "writing",
]

CURRENT: Final = "current"
LOCK: Final = ".lock"


def list_versions(store: Path) -> dict[int, Path]:
    """Versions of a folder by number, in ascending order; they are whole but may be altered."""
    found = store.iterdir() if store.is_dir() else ()
    numbered = {int(path.name): path for path in found if path.name.isdecimal() and path.is_dir()}
    return dict(sorted(numbered.items()))


def current_version(store: Path) -> int | None:
    """Number of the version in use; None before the first.

    Raises:
        ArtifactError: the link leads to no version.
    """
    number = _linked(store)
    if number is not None and number not in list_versions(store):
        raise ArtifactError.of(
            str(store / CURRENT),
            got=f"a link to {number}, which is gone",
            expected=f"one of the versions {_told(store)}",
            fix="choose one with: python -m export.repository rollback",
        )
    return number


def resolve_version(path: Path) -> Path:
    """Folder of the version in use; `path` itself where it is no folder of versions.

    Raises:
        ArtifactError: the link leads to no version.
    """
    number = current_version(path)
    return path.resolve() if number is None else (path / str(number)).resolve()


@contextmanager
def writing(store: Path) -> Iterator[None]:
    """Be the only one that adds versions or moves the link; what a killed one left is removed.

    Raises:
        ArtifactError: `store` is itself an artifact.
    """
    if (store / MANIFEST_NAME).exists():
        raise ArtifactError.of(
            str(store),
            got="an artifact",
            expected="a folder of versions, or none",
            fix="remove it or give another folder",
        )
    store.mkdir(parents=True, exist_ok=True)
    with (store / LOCK).open("w") as lock:
        # The kernel frees the lock of whoever ends, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for unfinished in store.glob(".[0-9]*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield


def switch_to(store: Path, number: int) -> None:
    """Put a version in use; only inside `writing`."""
    link = store / f".{CURRENT}"
    link.unlink(missing_ok=True)
    link.symlink_to(str(number))
    link.replace(store / CURRENT)


def roll_back(store: Path, kind: str, number: int | None = None) -> int:
    """Put an earlier version in use, after its digests are verified.

    Args:
        store: the folder of versions.
        kind: of its artifacts.
        number: any version; None takes the one before the current.

    Returns:
        The version's number.

    Raises:
        ArtifactError: there is no such version, or it is not as it was made.
    """
    if not list_versions(store):
        raise _no_version(store, "no version", "a folder of versions")
    with writing(store):
        versions = list_versions(store)
        if number is None:
            linked = _linked(store) or 0
            before = [earlier for earlier in versions if earlier < linked]
            if not before:
                raise _no_version(store, f"no version before {linked}", "an earlier one")
            number = before[-1]
        if number not in versions:
            raise _no_version(store, f"no version {number}", f"one of {_told(store)}")
        read_manifest(versions[number], kind)
        switch_to(store, number)
    return number


def _linked(store: Path) -> int | None:
    """Number that the link names, whether or not that version is there."""
    link = store / CURRENT
    return int(link.readlink().name) if link.is_symlink() else None


def _no_version(store: Path, got: str, expected: str) -> CpcSamError:
    return ArtifactError.of(
        str(store), got=got, expected=expected, fix="see: python -m export.repository list"
    )


def _told(store: Path) -> str:
    return ", ".join(map(str, list_versions(store))) or "(there is none)"
