"""Models to serve, each as official weights, as ONNX graphs and as a Triton repository.

vit_t is the shipped base at 256 pixels. vit_b at 1024 has random weights, none of them zero, since
no pretrained ones ship with this project: speed and memory depend on shapes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.common.job_cache import code_digest
from benchmarks.serving.stack import random_repository, repository_of
from cpcsam.model.base_checkpoint import base_digest

__all__ = ["IMAGE_SIZES", "PeerModel", "prepare_model"]

IMAGE_SIZES: Final = {"vit_t": 256, "vit_b": 1024}
CODE: Final = ("benchmarks.serving.stack", "export", "serving.backend")
"""Modules that decide the exported graphs and the repository."""


@dataclass(frozen=True)
class PeerModel:
    """One model in the forms that the systems load.

    Attributes:
        name: vit_t or vit_b.
        weights: a base, for official SAM.
        onnx: folder of the graphs.
        repository: of Triton.
        digest: SHA-256 of the weights.
    """

    name: str
    weights: Path
    onnx: Path
    repository: Path
    digest: str


def prepare_model(name: str, base: Path, build: Path) -> PeerModel:
    """Export a model, unless the same code already has.

    Args:
        name: a key of `IMAGE_SIZES`.
        base: the base that is served as vit_t.
        build: folder of the exported models.

    Raises:
        ArtifactError: no such base.
        ExportError: the graphs differ from PyTorch.
    """
    folder = build / f"{name}-{code_digest(*CODE)[:12]}"
    if name == "vit_t":
        repository, weights = repository_of(base, folder), base
    else:
        repository, weights = folder / "repository", folder / "random.pth"
        if not repository.is_dir():  # it is made last, and atomically
            random_repository(name, IMAGE_SIZES[name], folder)
    return PeerModel(name, weights, folder / "onnx", repository, base_digest(weights))
