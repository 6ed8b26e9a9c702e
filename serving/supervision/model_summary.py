"""What a model repository serves, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import Manifest, read_manifest
from cpcsam.artifacts.versions import resolve_version
from cpcsam.errors import ArtifactError
from cpcsam.scale import Scale

__all__ = ["summary_of"]

BASES: Final = Path("weights")
SHORT: Final = 8


def summary_of(repository: Path, bases: Path = BASES) -> str:
    """Describe the version of a repository that a server started now would serve.

    Args:
        repository: folder of versions, or a single version.
        bases: folder of the shipped bases, which are named by their folder.

    Returns:
        Such as `base vit_t: vit_t at 256 px, whole images, fp32, version 1 of build/repository`.

    Raises:
        ArtifactError: there is no version.
    """
    version = resolve_version(repository)
    config = read_manifest(version, "repository", verify=False).config
    digest = str(config.get("trained_model", ""))
    base = _base_of(digest, bases)
    source = f"run {digest[:SHORT]}" if base is None else f"base {base}"
    scale = Scale.of_manifest(config)
    window = None if scale is None else scale.window
    shown = "whole images" if window is None else f"windows of {window} px"
    size = f"{config.get('model_size')} at {config.get('image_size')} px"
    return f"{source}: {size}, {shown}, {config.get('precision')}, version {version}"


def _base_of(digest: str, bases: Path) -> str | None:
    for file in sorted(bases.glob("*/manifest.json")):
        try:
            manifest: Manifest = read_manifest(file.parent, verify=False)
        except ArtifactError:
            continue
        if digest in manifest.files.values():
            return file.parent.name
    return None
