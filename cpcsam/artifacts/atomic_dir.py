"""Atomic directories: written under a hidden name and renamed when complete.

If the file system can exchange two names (renameat2, as Linux's own can), readers find the old or
the new directory at every moment. Elsewhere the old directory is moved to `.NAME.old.*/NAME` first.
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
    """Yield a new hidden directory next to `path`; it is removed afterwards unless renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left(path)
    staging, lock = _locked_folder(path)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def remove_left(path: Path) -> None:
    """Remove the hidden directories that killed processes left for a path.

    Those of running processes stay: their lock, which the kernel frees at exit, is still held.
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
            continue  # another process removed it as a leftover
        with suppress(OSError):  # NFS locks no directories: leftovers stay there
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have removed it before it was locked.
        if staging.exists():
            return staging, lock
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            # Raises BlockingIOError while the writer runs.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def take_place(staging: Path, path: Path) -> None:
    """Rename a directory; a previous holder of the name is exchanged or removed."""
    if not path.exists():
        staging.rename(path)
    elif not exchange(staging, path):
        _replace(staging, path)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names atomically (renameat2).

    Returns:
        False if the file system or the C library cannot; then nothing has changed.

    Raises:
        OSError: it can, but not these two.
    """
    # Python's os module has no renameat2, and not every C library has it.
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
    """Rename staging to path in two steps, moving the older directory away first."""
    # `remove_left` does not match `.old.`: after a crash in between, this is the only copy.
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    path.rename(old / path.name)
    try:
        staging.rename(path)
    except OSError:
        (old / path.name).rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
