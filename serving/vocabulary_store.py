"""The classes of every tenant, on disk, so that they outlive the gateway.

A tenant's folder holds a whole vocabulary for every change, and the file `current` that names the
one that counts. A change writes the new vocabulary first and `current`, in one step, last; whatever
happens in between, the old one stays. Tenants who have changed nothing share the vocabulary that
the gateway was started with.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cpcsam.artifact import write_atomic
from cpcsam.errors import ArtifactError
from cpcsam.status import PreconditionError
from cpcsam.vocabulary import Vocabulary
from cpcsam.vocabulary_file import load_vocabulary, save_vocabulary

__all__ = ["VocabularyStore"]

CURRENT: Final = "current"
NOTHING: Final = "none"
"""What `current` holds when the last class was removed."""

Edit = Callable[[Vocabulary | None], Vocabulary | None]


class VocabularyStore:
    """Reads and changes vocabularies; to be used inside one event loop.

    Args:
        folder: where changes are kept, written by this gateway alone; None refuses changes.
        first: artifact of kind `vocabulary` that every tenant begins with; None is no class.
    """

    def __init__(self, folder: Path | None, first: Path | None) -> None:
        self._folder = folder
        self._first = first
        self._loaded: dict[Path, tuple[str, Vocabulary]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, tenant: str, model: str) -> Vocabulary | None:
        """The vocabulary of a tenant; None where it has no class.

        Args:
            tenant: whose it is.
            model: digest of the model that is served.

        Raises:
            PreconditionError: the vocabulary on disk cannot be used with this model.
        """
        return await asyncio.to_thread(self._get, tenant, model)

    async def change(self, tenant: str, model: str, edit: Edit) -> Vocabulary | None:
        """Change the vocabulary of a tenant, one change at a time.

        Args:
            tenant: whose it is.
            model: digest of the model that is served.
            edit: makes the new vocabulary of the old one; its errors change nothing.

        Returns:
            The new vocabulary, which is on disk.

        Raises:
            PreconditionError: there is no folder to keep it in, or the old one cannot be used.
        """
        if self._folder is None:
            raise PreconditionError.of(
                "classes",
                got="a gateway without a folder to keep them in",
                expected="one that was started with --classes DIR",
                fix="ask the operator for that",
            )
        async with self._locks[tenant]:
            # Not broken off half-way, whatever becomes of the caller.
            return await asyncio.shield(asyncio.to_thread(self._change, tenant, model, edit))

    def _get(self, tenant: str, model: str) -> Vocabulary | None:
        path = self._path(tenant)
        if path is None:
            return None
        known = self._loaded.get(path)
        if known is None or known[0] != model:
            try:
                known = model, load_vocabulary(path, model)
            except ArtifactError as error:
                if self._path(tenant) != path:  # changed while it was read
                    return self._get(tenant, model)
                raise PreconditionError(str(error)) from error
            self._loaded[path] = known
        return known[1]

    def _path(self, tenant: str) -> Path | None:
        """The artifact that counts for a tenant."""
        if self._folder is None:
            return self._first
        try:
            name = (self._folder / tenant / CURRENT).read_text()
        except FileNotFoundError:
            return self._first
        return None if name == NOTHING else self._folder / tenant / name

    def _change(self, tenant: str, model: str, edit: Edit) -> Vocabulary | None:
        assert self._folder is not None
        old, own = self._path(tenant), self._folder / tenant
        vocabulary = edit(self._get(tenant, model))
        name = NOTHING
        if vocabulary is not None:
            name = f"{1 + max(_numbers(own), default=0):06}"
            save_vocabulary(vocabulary, own / name)
        write_atomic(own / CURRENT, name.encode())
        if vocabulary is not None:
            self._loaded[own / name] = model, vocabulary
        if old is not None and old != self._first:
            self._loaded.pop(old, None)
            shutil.rmtree(old, ignore_errors=True)
        return vocabulary


def _numbers(folder: Path) -> list[int]:
    """Names of the vocabularies in a tenant's folder, those that never came to count included."""
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
