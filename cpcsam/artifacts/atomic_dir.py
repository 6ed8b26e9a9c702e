"""A folder that is written under a hidden name and takes its own in one step when it is whole.

Where the file system can exchange two names, which Linux's own can, the folder is there at every
moment, the old one or the new. Elsewhere the old one is set aside first, as `.NAME.old.*/NAME`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["exchange", "remove_left", "staging_folder", "take_place"]

AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2
UNSUPPORTED: Final = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
"""An unknown flag is an invalid argument."""
ANY_RANDOM_NAME: Final = "?" * 8
"""What `tempfile` appends."""


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`; it is gone afterwards unless it took a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left(path)
    staging, lock = _locked_folder(path)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def remove_left(path: Path) -> None:
    """Remove the hidden folders that killed processes left for a path.

    Those of living ones stay: the kernel frees the lock of whoever ends, however it ends.
    """
    for left in path.parent.glob(f".{path.name}.{ANY_RANDOM_NAME}"):
        if left.is_dir():
            _remove_if_left(left)


def _locked_folder(path: Path) -> tuple[Path, int]:
    while True:
        staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            lock = os.open(staging, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process took it for one that was left
        with suppress(OSError):  # NFS locks no folders: there, nothing that was left is removed
            fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.exists():
            return staging, lock
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def take_place(staging: Path, path: Path) -> None:
    """Give a folder its name; one that has it goes to the staging name or is removed."""
    if not path.exists():
        staging.rename(path)
    elif not exchange(staging, path):
        _replace(staging, path)


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step.

    Returns:
        False where the file system or the C library cannot; then nothing has changed.

    Raises:
        OSError: it can, but not these two.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], ctypes.c_uint(RENAME_EXCHANGE)) == 0:
        return True
    error = ctypes.get_errno()
    if error in UNSUPPORTED:
        return False
    raise OSError(error, os.strerror(error), str(second))


def _replace(staging: Path, path: Path) -> None:
    """Rename staging to path in two steps, setting the older folder aside first."""
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    path.rename(old / path.name)
    try:
        staging.rename(path)
    except OSError:
        (old / path.name).rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
