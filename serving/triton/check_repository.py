"""Compatibility of a model repository with this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import Manifest, read_manifest
from cpcsam.artifacts.versions import resolve_version
from cpcsam.errors import ServingError
from cpcsam.gpu import Gpu

__all__ = ["check_machine", "open_repository"]

FIX: Final = "build the engines where they are served: make engines"
GIVE_GPU: Final = "give the container a GPU: docker run --gpus all"


def open_repository(path: Path) -> tuple[Path, Manifest]:
    """Resolve the version to serve and verify its digests.

    Args:
        path: folder of versions, of which the current one is taken; or a single version.

    Raises:
        ArtifactError: there is no version, or a file differs from its digest.
    """
    version = resolve_version(path)
    return version, read_manifest(version, "repository")


def check_machine(
    version: Path, manifest: Manifest, *, tensorrt: str | None, gpus: Sequence[Gpu]
) -> None:
    """Check that a repository for a GPU finds one, and that its engines fit TensorRT and the GPUs.

    Args:
        version: folder of the version, for the message.
        manifest: its manifest.
        tensorrt: version of the server's TensorRT; None without one.
        gpus: all GPUs visible to the server, which runs an instance on each.

    Raises:
        ServingError: there is no GPU, or the engines were built for another TensorRT or another
            GPU architecture.
    """
    target = manifest.config.get("target")
    if target == "cuda" and not gpus:
        raise ServingError.of(
            str(version),
            got="a repository for ONNX Runtime's CUDA provider, and no GPU",
            expected="an NVIDIA GPU, which nvidia-smi lists",
            fix=f"{GIVE_GPU}; or publish the graphs for the CPU: make repository",
        )
    if target != "gpu":
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
            fix=GIVE_GPU,
        )
    for gpu in gpus:
        if gpu.compute_capability != built_for:
            raise ServingError.of(
                str(version),
                got=f"engines for GPUs of compute capability {built_for}",
                expected=f"{gpu.compute_capability}, that of {gpu.name}",
                fix=FIX,
            )
