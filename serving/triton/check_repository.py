"""Compatibility of a model repository with this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import Manifest, read_manifest
from cpcsam.artifacts.versions import resolve_version
from cpcsam.errors import ServingError
from cpcsam.gpu import Gpu

__all__ = ["check_engines", "open_repository"]

FIX: Final = "build the engines where they are served: make engines"


def open_repository(path: Path) -> tuple[Path, Manifest]:
    """Resolve the version to serve and verify its digests.

    Args:
        path: folder of versions, of which the current one is taken; or a single version.

    Raises:
        ArtifactError: there is no version, or a file differs from its digest.
    """
    version = resolve_version(path)
    return version, read_manifest(version, "repository")


def check_engines(
    version: Path, manifest: Manifest, *, tensorrt: str | None, gpus: Sequence[Gpu]
) -> None:
    """Check that the engines of a repository, if any, fit the server's TensorRT and its GPUs.

    Args:
        version: folder of the version, for the message.
        manifest: its manifest.
        tensorrt: version of the server's TensorRT; None without one.
        gpus: all GPUs visible to the server, which runs an instance on each.

    Raises:
        ServingError: they were built for another TensorRT or another GPU architecture.
    """
    if manifest.config.get("target") != "gpu":
        return
    engine = manifest.config.get("engine", {})
    built_with, built_for = engine.get("tensorrt"), engine.get("compute_capability")
    if tensorrt is None:
        raise ServingError.of(
            str(version),
            got=f"a repository for gpu, engines of TensorRT {built_with}",
            expected="a repository for cpu, as this server has no TensorRT",
            fix="serve it by docker compose, or publish graphs for the CPU: make repository",
        )
    if built_with != tensorrt:
        raise ServingError.of(
            str(version),
            got=f"engines of TensorRT {built_with}",
            expected=f"engines of TensorRT {tensorrt}, which serves here",
            fix=FIX,
        )
    if not gpus:
        raise ServingError.of(
            str(version),
            got=f"engines for GPUs of compute capability {built_for}, and no GPU",
            expected="a GPU",
            fix="give the container a GPU: docker run --gpus all",
        )
    for gpu in gpus:
        if gpu.compute_capability != built_for:
            raise ServingError.of(
                str(version),
                got=f"engines for GPUs of compute capability {built_for}",
                expected=f"{gpu.compute_capability}, that of {gpu.name}",
                fix=FIX,
            )
