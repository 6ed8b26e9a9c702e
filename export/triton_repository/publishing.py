"""Publish versions of a Triton model repository, and generate the committed trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import MANIFEST_NAME, Manifest, publish, read_manifest, sha256_file
from cpcsam.artifacts.versions import list_versions, switch_to, writing
from cpcsam.contract import IMAGE_SIZES
from cpcsam.errors import ArtifactError
from cpcsam.images.options import Intensity
from cpcsam.scale import Scale
from export.triton_repository.config import RepositoryConfig, Target
from export.triton_repository.layout import SOURCE_KIND, config_files, plan_tree, write_files

__all__ = ["COMMITTED", "COMMITTED_MODEL", "KIND", "build_repository", "write_configs"]

KIND: Final = "repository"
COMMITTED: Final = Path(__file__).resolve().parents[2] / "model_repository"
SHIMS: Final = COMMITTED / "python"
COMMITTED_MODEL: Final = ("vit_t", 256)
"""Model size and image_size of the committed trees: those of the shipped base."""


def build_repository(
    source: Path, out: Path, *, target: Target = "cpu", threads: int = 0, shims: Path = SHIMS
) -> Path:
    """Publish graphs as the current version, reusing a version of equal content.

    Args:
        source: artifact with the graphs: of kind `onnx` for the CPU, `engine` for the GPU.
        out: the folder of versions, each an artifact of kind `repository`.
        target: `cpu` or `gpu`.
        threads: intra-op threads of an ONNX Runtime call; 0 uses all cores.
        shims: folder with each Python model's NAME/1/model.py, of both targets.

    Returns:
        The version's folder.

    Raises:
        ArtifactError: source is not such an artifact, was altered, or lacks a graph.
    """
    manifest = read_manifest(source, SOURCE_KIND[target])
    digest = sha256_file(source / MANIFEST_NAME)
    repository = RepositoryConfig(
        model_size=str(manifest.config.get("model_size")),
        image_size=_image_size(source, manifest),
        target=target,
        threads=threads,
        model_digest=digest,
        trained_model=str(manifest.config.get("trained_model", "")),
        scale=Scale.of_manifest(manifest.config),
        intensity=Intensity.of_manifest(manifest.config),
    )
    parents = {manifest.kind: digest}
    config = {**manifest.config, "target": target, "threads": threads}
    with writing(out):
        versions = list_versions(out)
        for number in reversed(versions):
            tree = plan_tree(source, manifest, repository, shims, number)
            if _has_files(versions[number], tree.digests):
                switch_to(out, number)
                return versions[number]
        number = max(versions, default=0) + 1
        tree = plan_tree(source, manifest, repository, shims, number)
        with publish(out / str(number), KIND, parents=parents, config=config) as staging:
            tree.write(staging)
        switch_to(out, number)
    return out / str(number)


def write_configs(trees: Path) -> None:
    """Regenerate the committed configurations of both targets.

    Args:
        trees: folder with `cpu` and `gpu`.
    """
    for target in SOURCE_KIND:
        repository = RepositoryConfig(*COMMITTED_MODEL, target=target)
        write_files(trees / target, config_files(repository))


def _has_files(version: Path, digests: Mapping[str, str]) -> bool:
    """Return whether a version has exactly these files, unaltered."""
    try:
        # Comparing the manifests first avoids hashing the files of every other version.
        if read_manifest(version, KIND, verify=False).files != digests:
            return False
        read_manifest(version, KIND)
    except ArtifactError:
        return False
    return True


def _image_size(source: Path, manifest: Manifest) -> int:
    image_size = manifest.config.get("image_size")
    if image_size not in IMAGE_SIZES:
        raise ArtifactError.of(
            f"{source}, config.image_size",
            got=image_size,
            expected=f"one of {IMAGE_SIZES}",
            fix="export the graphs again",
        )
    return int(image_size)
