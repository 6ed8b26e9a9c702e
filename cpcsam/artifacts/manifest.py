"""Artifacts: directories with a `manifest.json`, written atomically and verified when read.

A stage reads a directory, verifies every file's SHA-256 against the manifest and writes a new
directory under a temporary name that is renamed when complete, so that an incomplete artifact is
never visible under its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from cpcsam.artifacts.atomic_dir import remove_left, staging_folder, take_place
from cpcsam.errors import ArtifactError

__all__ = [
    "MANIFEST_NAME",
    "Manifest",
    "is_made_from",
    "publish",
    "read_manifest",
    "sha256_file",
    "tool_versions",
    "write_atomic",
]

FORMAT_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
REPORTED_TOOLS: Final = (
    "cpcsam",
    "torch",
    "segment-anything",
    "peft",
    "onnx",
    "onnxruntime-gpu",
    "numpy",
)


@dataclass(frozen=True)
class Manifest:
    """Manifest of an artifact: kind, provenance and digests.

    Attributes:
        kind: `checkpoint` (a base), `run`, `merged`, `onnx`, `engine`, `repository`, `clip` or
            `vocabulary`.
        files: SHA-256 of every file, keyed by its path relative to the directory.
        parents: SHA-256 of the manifests (or files) this was made from, keyed by role.
        config: the plain-data configuration that made it.
        metrics: measured figures.
        tools: versions of the libraries that made it.
    """

    kind: str
    files: Mapping[str, str]
    parents: Mapping[str, str]
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    tools: Mapping[str, str]
    format_version: int = FORMAT_VERSION


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache  # a library's metadata take 15 ms to parse
def tool_versions() -> Mapping[str, str]:
    """Return the versions of those libraries of `REPORTED_TOOLS` that are installed."""
    from importlib import metadata  # readers, such as Triton's steps, need none

    versions = {}
    for name in REPORTED_TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            # Else a power failure could leave an empty file under the final name.
            os.fsync(file.fileno())
        # mkstemp creates for the owner alone, and servers read under another uid.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def publish(
    path: Path,
    kind: str,
    *,
    parents: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> Iterator[Path]:
    """Write an artifact: yield a temporary directory, then add the manifest and rename it.

    An artifact already at `path` stays until its replacement is complete. If the body raises,
    nothing changes at `path`. `metrics` may be filled by the body.
    """
    with staging_folder(path) as staging:
        yield staging
        files = sorted(file for file in staging.rglob("*") if file.is_file())
        manifest = {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "files": {str(file.relative_to(staging)): sha256_file(file) for file in files},
            "parents": dict(parents or {}),
            "config": dict(config or {}),
            "metrics": dict(metrics or {}),
            "tools": tool_versions(),
        }
        write_atomic(staging / MANIFEST_NAME, (json.dumps(manifest, indent=2) + "\n").encode())
        # As for files: mkdtemp creates for the owner alone.
        staging.chmod(0o755)
        take_place(staging, path)


def read_manifest(path: Path, kind: str | None = None, *, verify: bool = True) -> Manifest:
    """Read and verify an artifact.

    Args:
        path: the artifact's directory.
        kind: the expected kind; None accepts any.
        verify: compare every file with its digest.

    Raises:
        ArtifactError: no manifest, another kind or format, or a missing or altered file.
    """
    file = path / MANIFEST_NAME
    try:
        manifest = Manifest(**json.loads(file.read_text()))
    except FileNotFoundError as error:
        raise ArtifactError.of(
            str(path),
            got="no manifest.json",
            expected=f"an artifact of kind {kind or 'any'}",
            fix="give the directory that the previous stage wrote",
        ) from error
    except (ValueError, TypeError, OSError) as error:
        raise ArtifactError.of(
            str(file),
            got=f"an unreadable file ({error})",
            expected="a manifest",
            fix="make it again",
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise ArtifactError.of(
            str(file),
            got=f"format version {manifest.format_version}",
            expected=str(FORMAT_VERSION),
            fix="make the artifact again with this version",
        )
    if kind is not None and manifest.kind != kind:
        raise ArtifactError.of(
            str(path), got=f"kind {manifest.kind}", expected=kind, fix="give another directory"
        )
    if verify:
        for name, digest in manifest.files.items():
            _verify(path / name, digest)
    return manifest


def is_made_from(
    path: Path, kind: str, *, parents: Mapping[str, str], config: Mapping[str, Any] | None = None
) -> bool:
    """Return whether a complete, current artifact exists; remove leftovers of killed processes.

    Args:
        path: the artifact's directory.
        kind: the expected kind.
        parents: digests of all inputs it would be made from.
        config: entries that its configuration must have, among others.
    """
    remove_left(path)
    try:
        manifest = read_manifest(path, kind)
    except ArtifactError:
        return False
    # As the manifest holds it: JSON turns tuples into lists and keys into text.
    wanted = json.loads(json.dumps(dict(config or {})))
    return (
        manifest.parents == dict(parents)
        and manifest.tools == tool_versions()
        and all(manifest.config.get(key) == value for key, value in wanted.items())
    )


def _verify(file: Path, digest: str) -> None:
    if not file.is_file():
        raise ArtifactError.of(
            str(file), got="no such file", expected=f"sha256 {digest[:12]}", fix="make it again"
        )
    actual = sha256_file(file)
    if actual != digest:
        raise ArtifactError.of(
            str(file),
            got=f"sha256 {actual[:12]}",
            expected=f"{digest[:12]} as its manifest says",
            fix="the file was altered; make the artifact again",
        )
