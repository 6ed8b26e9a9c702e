"""The classes of every tenant, on disk, so that they outlive the gateway.

A tenant's folder holds versions of its vocabulary, of which one is current (`cpcsam.artifacts.versions`). A
change writes a whole new version and then puts it in use; whatever happens in between, the old one
stays. Tenants who have changed nothing share the vocabulary that the gateway was started with.
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
"""Makes a new vocabulary of the old one, or of none."""


class VocabularyStore:
    """Reads and changes vocabularies; several gateways may share a folder.

    Args:
        folder: where changes are kept; None refuses them.
        first: artifact of kind `vocabulary` that every tenant begins with; None is no class.
    """

    def __init__(self, folder: Path | None, first: Path | None) -> None:
        self._folder = folder
        self._first = first
        self._loaded: dict[Path, tuple[str, Vocabulary]] = {}

    async def get(self, tenant: str, model: str) -> Vocabulary | None:
        """The vocabulary of a tenant; None where it never had one.

        Args:
            tenant: whose it is.
            model: digest of the model that is served.

        Raises:
            PreconditionError: the vocabulary on disk cannot be used with this model.
        """
        return await asyncio.to_thread(self._get, tenant, model)

    async def change(self, tenant: str, model: str, edit: Edit) -> Vocabulary:
        """Change the vocabulary of a tenant, one change at a time.

        Args:
            tenant: whose it is.
            model: digest of the model that is served.
            edit: makes the new vocabulary; its errors change nothing.

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
        folder = self._folder / tenant
        return await asyncio.to_thread(self._change, folder, tenant, model, edit)

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
        number = current_version(self._folder / tenant)
        return self._first if number is None else self._folder / tenant / str(number)

    def _change(self, folder: Path, tenant: str, model: str, edit: Edit) -> Vocabulary:
        with writing(folder):
            vocabulary = edit(self._get(tenant, model))
            older = list_versions(folder)
            number = max(older, default=0) + 1
            save_vocabulary(vocabulary, folder / str(number))
            switch_to(folder, number)
            self._loaded[folder / str(number)] = model, vocabulary
            for path in older.values():
                self._loaded.pop(path, None)
                shutil.rmtree(path, ignore_errors=True)
        return vocabulary
