"""Persistent store of the tenants' vocabularies.

A tenant's folder holds versions of its vocabulary, one of them current
(`cpcsam.artifacts.versions`). A change writes a complete new version and then switches to it
atomically, so that a crash leaves the old one. Tenants without changes share the initial vocabulary
of the gateway.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from cpcsam.artifacts.manifest import MANIFEST_NAME
from cpcsam.artifacts.versions import (
    LockedError,
    current_version,
    list_versions,
    switch_to,
    writing,
)
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.automatic.vocabulary_io import load_vocabulary, save_vocabulary
from cpcsam.errors import ArtifactError
from cpcsam.grpc_errors import FullError, PreconditionError
from serving.gateway.scheduling.executors import Executors
from serving.gateway.vocabulary.storage_errors import storage_errors, unusable

__all__ = ["Edit", "VocabularyStore"]

LOCK_TIMEOUT_S: Final = 5.0
"""Longest wait of a change for other changes of its tenant."""
LOCK_POLL_S: Final = 0.05

Edit = Callable[[Vocabulary | None], Vocabulary]
"""Function from the old vocabulary, or None, to the new one."""


class _Source(NamedTuple):
    """What a loaded vocabulary was read from; a restored backup may reuse a version's number."""

    model: str
    inode: int
    written_ns: int

    @classmethod
    def of(cls, path: Path, model: str) -> _Source:
        """Look at an artifact, which may have gone: reading it tells why."""
        try:
            manifest = (path / MANIFEST_NAME).stat()
        except OSError:
            return cls(model, 0, 0)
        return cls(model, manifest.st_ino, manifest.st_mtime_ns)


class VocabularyStore:
    """Reads and changes vocabularies; several gateways may share a folder.

    Args:
        folder: parent of the tenants' folders; None refuses changes.
        initial: artifact of kind `vocabulary` with the initial classes; None is no class.
        executors: whose pools `classes` and `changes` are used; None takes pools of its own.
    """

    def __init__(
        self, folder: Path | None, initial: Path | None, executors: Executors | None = None
    ) -> None:
        self._folder = folder
        self._initial = initial
        self._executors = executors or Executors()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # By folder, so that a version replaces the one before it, whichever gateway has made it.
        self._loaded: dict[Path, tuple[Path, _Source, Vocabulary]] = {}

    async def get(self, tenant: str, model: str) -> Vocabulary | None:
        """Return the vocabulary of a tenant; None if it never had one.

        Args:
            tenant: owner of the vocabulary.
            model: digest of the model that is served.

        Raises:
            PreconditionError: the vocabulary on disk cannot be used with this model.
        """
        return await self._executors.classes.run(tenant, self._get, tenant, model)

    async def change(self, tenant: str, model: str, edit: Edit) -> Vocabulary:
        """Change the vocabulary of a tenant; changes of a tenant are serialized.

        Args:
            tenant: owner of the vocabulary.
            model: digest of the model that is served.
            edit: computes the new vocabulary; if it raises, nothing changes.

        Returns:
            The new vocabulary, already on disk.

        Raises:
            FullError: other changes of the tenant did not end within `LOCK_TIMEOUT_S`.
            PreconditionError: there is no folder to store it in, or the old one cannot be used.
            LimitError: the disk is full.
        """
        if self._folder is None:
            raise PreconditionError.of(
                "classes",
                got="a gateway without a folder to store them in",
                expected="a gateway started with --classes DIR",
                fix="have the operator set it",
            )
        folder, last = self._folder / tenant, monotonic() + LOCK_TIMEOUT_S
        async with self._only_change(tenant):
            while True:
                try:
                    return await self._executors.changes.run(
                        tenant, self._change, folder, tenant, model, edit
                    )
                except LockedError:  # by another gateway
                    if monotonic() > last:
                        raise _busy() from None
                # Waiting takes no thread, which other tenants need.
                await asyncio.sleep(LOCK_POLL_S)

    @asynccontextmanager
    async def _only_change(self, tenant: str) -> AsyncIterator[None]:
        """Let one change of a tenant run at a time in this gateway."""
        lock = self._locks.setdefault(tenant, asyncio.Lock())
        try:
            async with asyncio.timeout(LOCK_TIMEOUT_S):
                await lock.acquire()
        except TimeoutError:
            raise _busy() from None
        try:
            yield
        finally:
            lock.release()

    @storage_errors()
    def _get(self, tenant: str, model: str) -> Vocabulary | None:
        path = self._path(tenant)
        if path is None:
            return None
        loaded, source = self._loaded.get(path.parent), _Source.of(path, model)
        if loaded is None or loaded[:2] != (path, source):
            try:
                loaded = path, source, load_vocabulary(path, model)
            except ArtifactError as error:
                if self._path(tenant) != path:  # changed while it was read
                    return self._get(tenant, model)
                raise unusable(error) from error
            self._loaded[path.parent] = loaded
        return loaded[2]

    def _path(self, tenant: str) -> Path | None:
        """Return the current artifact of a tenant."""
        if self._folder is None:
            return self._initial
        number = current_version(self._folder / tenant)
        return self._initial if number is None else self._folder / tenant / str(number)

    @storage_errors()
    def _change(self, folder: Path, tenant: str, model: str, edit: Edit) -> Vocabulary:
        with writing(folder, wait=False):
            vocabulary = edit(self._get(tenant, model))
            older = list_versions(folder)
            number = max(older, default=0) + 1
            save_vocabulary(vocabulary, folder / str(number))
            switch_to(folder, number)
            path = folder / str(number)
            self._loaded[folder] = path, _Source.of(path, model), vocabulary
            # A reader of an old version notices and reads again; see `_get`.
            for path in older.values():
                shutil.rmtree(path, ignore_errors=True)
        return vocabulary


def _busy() -> FullError:
    return FullError.of(
        "classes",
        got=f"other changes that do not end within {LOCK_TIMEOUT_S:g} s",
        expected="few changes at a time",
        fix="try again in a moment",
    )
