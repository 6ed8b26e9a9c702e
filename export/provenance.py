"""Provenance of exported artifacts: the exporting code, their merged model and their comparison."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.artifacts.manifest import MANIFEST_NAME, Manifest, sha256_file
from cpcsam.errors import ArtifactError

__all__ = ["COMPARED_IN", "code_digest", "require_made_from"]

COMPARED_IN: Final = "compared_in"
"""Configuration: provider of ONNX Runtime that the graphs were compared in besides the CPU's."""


def code_digest() -> str:
    """Return the SHA-256 of the sources of `cpcsam` and `export`.

    It is a parent of every artifact that is reused if unchanged, so that changed code rebuilds it.
    """
    digest = hashlib.sha256()
    for package in (Path(cpcsam.__file__).parent, Path(__file__).parent):
        for file in sorted(package.rglob("*.py")):
            digest.update(f"{file.relative_to(package.parent)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def require_made_from(path: Path, manifest: Manifest, merged: Path) -> None:
    """Raise if an artifact was made from another merged model.

    Args:
        path: the artifact.
        manifest: its manifest.
        merged: artifact of kind `merged`.

    Raises:
        ArtifactError: names both models.
    """
    digest, made_from = sha256_file(merged / MANIFEST_NAME), manifest.parents.get("merged", "none")
    if made_from != digest:
        raise ArtifactError.of(
            str(path),
            got=f"{manifest.kind} of the merged model {made_from[:12]}",
            expected=f"of {merged}, {digest[:12]}",
            fix="export that model, or give the one that was exported",
        )
