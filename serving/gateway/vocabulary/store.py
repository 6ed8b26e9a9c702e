"""Persistent store of the tenants' vocabularies.

A tenant's folder holds versions of its vocabulary, one of them current
(`cpcsam.artifacts.versions`). A change writes a complete new version and then switches to it
atomically, so that a crash leaves the old one. Tenants without changes share the initial vocabulary
of the gateway.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from cpcsam.artifacts.versions import current_version, list_versions, switch_to, writing
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.automatic.vocabulary_io import load_vocabulary, save_vocabulary
from cpcsam.errors import ArtifactError
from cpcsam.grpc_errors import PreconditionError

__all__ = ["Edit", "VocabularyStore"]

Edit = Callable[[Vocabulary | None], Vocabulary]
"""Function from the old vocabulary, or None, to the new one."""


class VocabularyStore:
    """Reads and changes vocabularies; several gateways may share a folder.

    Args:
        folder: parent of the tenants' folders; None refuses changes.
        initial: artifact of kind `vocabulary` with the initial classes; None is no class.
    """

    def __init__(self, folder: Path | None, initial: Path | None) -> None:
        self._folder = folder
        self._initial = initial
        self._loaded: dict[Path, tuple[str, Vocabulary]] = {}

    async def get(self, tenant: str, model: str) -> Vocabulary | None:
        """Return the vocabulary of a tenant; None if it never had one.

        Args:
            tenant: owner of the vocabulary.
            model: digest of the model that is served.

        Raises:
            PreconditionError: the vocabulary on disk cannot be used with this model.
        """
        return await asyncio.to_thread(self._get, tenant, model)

    async def change(self, tenant: str, model: str, edit: Edit) -> Vocabulary:
        """Change the vocabulary of a tenant; changes of a tenant are serialized.

        Args:
            tenant: owner of the vocabulary.
            model: digest of the model that is served.
            edit: computes the new vocabulary; if it raises, nothing changes.

        Returns:
            The new vocabulary, already on disk.

        Raises:
            PreconditionError: there is no folder to store it in, or the old one cannot be used.
        """
        if self._folder is None:
            raise PreconditionError.of(
                "classes",
                got="a gateway without a folder to store them in",
                expected="a gateway started with --classes DIR",
                fix="have the operator set it",
            )
        folder = self._folder / tenant
        return await asyncio.to_thread(self._change, folder, tenant, model, edit)

    def _get(self, tenant: str, model: str) -> Vocabulary | None:
        path = self._path(tenant)
        if path is None:
            return None
        loaded = self._loaded.get(path)
        if loaded is None or loaded[0] != model:
            try:
                loaded = model, load_vocabulary(path, model)
            except ArtifactError as error:
                if self._path(tenant) != path:  # changed while it was read
                    return self._get(tenant, model)
                raise PreconditionError(str(error)) from error
            self._loaded[path] = loaded
        return loaded[1]

    def _path(self, tenant: str) -> Path | None:
        """Return the current artifact of a tenant."""
        if self._folder is None:
            return self._initial
        number = current_version(self._folder / tenant)
        return self._initial if number is None else self._folder / tenant / str(number)

    def _change(self, folder: Path, tenant: str, model: str, edit: Edit) -> Vocabulary:
        with writing(folder):
            vocabulary = edit(self._get(tenant, model))
            older = list_versions(folder)
            number = max(older, default=0) + 1
            save_vocabulary(vocabulary, folder / str(number))
            switch_to(folder, number)
            self._loaded[folder / str(number)] = model, vocabulary
            # A reader of an old version notices and reads again; see `_get`.
            for path in older.values():
                self._loaded.pop(path, None)
                shutil.rmtree(path, ignore_errors=True)
        return vocabulary
