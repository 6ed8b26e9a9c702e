"""Versions: a directory of numbered artifacts, and a symbolic link, `current`, to the active one.

    build/repository/1/            an artifact with its manifest
    build/repository/2/            a later one
    build/repository/current -> 2

A version gets its number by a rename when it is complete and is never altered afterwards; the link
moves by a rename too. A reader that follows the link finds a complete version, and keeps the
version that it resolved.
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
    "LockedError",
    "current_version",
    "list_versions",
    "resolve_version",
    "roll_back",
    "switch_to",
    "writing",
]

CURRENT: Final = "current"
LOCK: Final = ".lock"


class LockedError(ArtifactError):
    """Another process or thread holds the store's lock."""


def list_versions(store: Path) -> dict[int, Path]:
    """Return versions by number, ascending; they are complete but not verified."""
    entries = store.iterdir() if store.is_dir() else ()
    numbered = {int(path.name): path for path in entries if path.name.isdecimal() and path.is_dir()}
    return dict(sorted(numbered.items()))


def current_version(store: Path) -> int | None:
    """Return the number of the active version; None before the first.

    Raises:
        ArtifactError: the link leads to no version.
    """
    number = _linked(store)
    while number is not None and number not in list_versions(store):
        # A writer may move the link and delete the version between the two looks.
        gone, number = number, _linked(store)
        if number == gone:
            raise ArtifactError.of(
                str(store / CURRENT),
                got=f"a link to {gone}, which is gone",
                expected=f"one of the versions {_listed(store)}",
                fix="choose one with: python -m export.repository rollback",
            )
    return number


def resolve_version(path: Path) -> Path:
    """Return the directory of the active version; `path` itself if it holds no versions.

    Raises:
        ArtifactError: the link leads to no version.
    """
    number = current_version(path)
    return path.resolve() if number is None else (path / str(number)).resolve()


@contextmanager
def writing(store: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock the store for adding versions or moving the link; remove leftovers of killed writers.

    Args:
        store: the directory of versions.
        wait: wait for the lock, without a limit.

    Raises:
        ArtifactError: `store` is itself an artifact.
        LockedError: the lock is held, and the caller does not wait.
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
        # The kernel frees the lock when the process exits, even if it is killed.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError.of(
                str(store), got="a locked store", expected="a free one", fix="try again"
            ) from error
        for unfinished in store.glob(".[0-9]*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield


def switch_to(store: Path, number: int) -> None:
    """Activate a version; only inside `writing`."""
    link = store / f".{CURRENT}"
    link.unlink(missing_ok=True)
    # Relative, so that the store can be moved or mounted elsewhere.
    link.symlink_to(str(number))
    link.replace(store / CURRENT)


def roll_back(store: Path, kind: str, number: int | None = None) -> int:
    """Activate an earlier version, after its digests are verified.

    Args:
        store: the directory of versions.
        kind: of its artifacts.
        number: any version; None takes the latest before the active one.

    Returns:
        The version's number.

    Raises:
        ArtifactError: there is no such version, or its files do not match their digests.
    """
    # Checked before `writing`, which would create the store.
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
            raise _no_version(store, f"no version {number}", f"one of {_listed(store)}")
        read_manifest(versions[number], kind)
        switch_to(store, number)
    return number


def _linked(store: Path) -> int | None:
    """Return the number that the link names, whether or not that version exists."""
    link = store / CURRENT
    return int(link.readlink().name) if link.is_symlink() else None


def _no_version(store: Path, got: str, expected: str) -> CpcSamError:
    return ArtifactError.of(
        str(store), got=got, expected=expected, fix="see: python -m export.repository list"
    )


def _listed(store: Path) -> str:
    return ", ".join(map(str, list_versions(store))) or "(there is none)"
