"""The digest of the code that exports: a parent of every artifact that is reused if unchanged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cpcsam

__all__ = ["code_digest"]


def code_digest() -> str:
    """SHA-256 of the sources of `cpcsam` and `export`, so that changed code makes things anew."""
    digest = hashlib.sha256()
    for package in (Path(cpcsam.__file__).parent, Path(__file__).parent):
        for file in sorted(package.rglob("*.py")):
            digest.update(f"{file.relative_to(package.parent)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
