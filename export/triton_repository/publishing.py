"""Publish versions of a Triton model repository, and generate the committed trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cpcsam.artifacts.golden import GOLDEN_NAME, write_golden
from cpcsam.artifacts.manifest import MANIFEST_NAME, Manifest, publish, read_manifest, sha256_file
from cpcsam.artifacts.versions import current_version, list_versions, switch_to, writing
from cpcsam.clip.onnx_towers import CLIP_KIND
from cpcsam.contract import IMAGE_SIZES, calibrates_of
from cpcsam.errors import ArtifactError, ExportError
from cpcsam.images.options import Intensity
from cpcsam.scale import Scale
from export.triton_repository.config import RepositoryConfig, Target
from export.triton_repository.golden import golden_cases, golden_tolerance
from export.triton_repository.layout import (
    SOURCE_KIND,
    ClipSource,
    config_files,
    plan_tree,
    write_files,
)

__all__ = ["COMMITTED", "COMMITTED_MODEL", "KIND", "build_repository", "write_configs"]

KIND: Final = "repository"
COMMITTED: Final = Path(__file__).resolve().parents[2] / "model_repository"
SHIMS: Final = COMMITTED / "python"
COMMITTED_MODEL: Final = ("vit_t", 256)
"""Model size and image_size of the committed trees: those of the shipped base."""
COMMITTED_TARGETS: Final[tuple[Target, ...]] = ("cpu", "gpu")
"""`cuda` differs from `cpu` by a few lines of two models alone."""


def build_repository(
    source: Path,
    out: Path,
    *,
    target: Target = "cpu",
    threads: int = 0,
    shims: Path = SHIMS,
    golden: Path | None = None,
    clip: Path | None = None,
    switch: bool = True,
) -> Path:
    """Publish graphs as a version, the current one, reusing a version of equal content.

    Args:
        source: artifact with the graphs: of kind `onnx`, or `engine` for the target `gpu`.
        out: the folder of versions, each an artifact of kind `repository`.
        target: `cpu`, `cuda` or `gpu`; see `RepositoryConfig`.
        threads: intra-op threads of an ONNX Runtime call; 0 uses all cores.
        shims: folder with each Python model's NAME/1/model.py, of all targets.
        golden: artifact of kind `onnx` whose answers the version keeps, so that a server can
            compare its own: `source` itself, or the graphs that its engines were built of; None
            keeps none.
        clip: artifact of kind `clip`, whose towers are served for classes by text; None serves
            none.
        switch: make it the current version; otherwise the current one stays, if there is any.

    Returns:
        The version's folder.

    Raises:
        ArtifactError: source is not such an artifact, was altered, or lacks a graph; or the graphs
            of `golden` are others.
        ExportError: the target has no arithmetic for the precision of the graphs.
    """
    manifest = read_manifest(source, SOURCE_KIND[target])
    if target == "cuda" and manifest.config.get("precision") == "int8":
        raise ExportError.of(
            str(source),
            got="graphs in int8, which are for the CPU",
            expected="fp32 or fp16 for ONNX Runtime's CUDA provider",
            fix="export them in such a precision: make export TARGET=cuda PRECISION=fp16",
        )
    digest = sha256_file(source / MANIFEST_NAME)
    if golden is not None:
        _require_origin(source, manifest, digest, golden)
    repository = RepositoryConfig(
        model_size=str(manifest.config.get("model_size")),
        image_size=_image_size(source, manifest),
        target=target,
        threads=threads,
        model_digest=digest,
        trained_model=str(manifest.config.get("trained_model", "")),
        scale=Scale.of_manifest(manifest.config),
        intensity=Intensity.of_manifest(manifest.config),
        calibrates=calibrates_of(manifest.config),
    )
    towers = None if clip is None else ClipSource.read(clip)
    parents = {manifest.kind: digest}
    config = {**manifest.config, "target": target, "threads": threads}
    if towers is not None:
        parents[CLIP_KIND] = towers.digest
        config[CLIP_KIND] = towers.info.digest
    with writing(out):
        versions = list_versions(out)
        for number in reversed(versions):
            tree = plan_tree(source, manifest, repository, shims, number, towers)
            if _has_files(versions[number], tree.digests, has_golden=golden is not None):
                _switch(out, number, switch)
                return versions[number]
        number = max(versions, default=0) + 1
        tree = plan_tree(source, manifest, repository, shims, number, towers)
        with publish(out / str(number), KIND, parents=parents, config=config) as staging:
            tree.write(staging)
            if golden is not None:
                path = staging / GOLDEN_NAME
                write_golden(path, golden_cases(golden), golden_tolerance(golden))
        _switch(out, number, switch)
    return out / str(number)


def write_configs(trees: Path) -> None:
    """Regenerate the committed configurations, of the targets `cpu` and `gpu`.

    Args:
        trees: folder with `cpu` and `gpu`.
    """
    for target in COMMITTED_TARGETS:
        repository = RepositoryConfig(*COMMITTED_MODEL, target=target, calibrates=False)
        write_files(trees / target, config_files(repository))


def _switch(out: Path, number: int, switch: bool) -> None:
    if switch or current_version(out) is None:
        switch_to(out, number)


def _require_origin(source: Path, manifest: Manifest, digest: str, golden: Path) -> None:
    """Check that engines were built of the graphs whose answers they are to give."""
    onnx = sha256_file(golden / MANIFEST_NAME) if (golden / MANIFEST_NAME).exists() else "none"
    if onnx not in (digest, manifest.parents.get("onnx")):
        raise ArtifactError.of(
            str(golden),
            got=f"graphs with the manifest {onnx[:12]}",
            expected=f"those of {source}",
            fix="give the graphs that the engines were built of",
        )


def _has_files(version: Path, digests: Mapping[str, str], *, has_golden: bool) -> bool:
    """Return whether a version has exactly these files, unaltered, and golden answers if need be.

    Those themselves are not compared: they follow from the graphs, to the last bit only on one
    machine.
    """
    try:
        # Comparing the manifests first avoids hashing the files of every other version.
        files = dict(read_manifest(version, KIND, verify=False).files)
        found = files.pop(GOLDEN_NAME, None)
        if files != digests or (has_golden and found is None):
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
