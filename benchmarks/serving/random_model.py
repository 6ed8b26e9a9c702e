"""Model repository of random weights, for measurements of time alone."""

from __future__ import annotations

from pathlib import Path

import torch
from segment_anything import sam_model_registry

from cpcsam.artifacts.manifest import publish
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.fusion import fuse
from export.graphs.precisions import trace_graphs
from export.triton_repository.publishing import build_repository

__all__ = ["random_repository"]

SPREAD = 0.02


def random_repository(model_size: str, image_size: int, build: Path) -> Path:
    """Export random weights in the official checkpoint's layout; they are not compared with torch.

    Args:
        model_size: vit_b, vit_l or vit_h.
        image_size: side S of the encoder's frame.
        build: folder for all that is made.

    Returns:
        The repository.
    """
    build.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    sam = sam_model_registry[model_size]()
    with torch.no_grad():
        for parameter in sam.parameters():
            if not parameter.any():
                parameter.normal_(std=SPREAD)
    torch.save(sam.state_dict(), build / "random.pth")
    del sam
    model = fuse(load_base(build / "random.pth", model_size, image_size))
    config = {"model_size": model_size, "image_size": image_size}
    with publish(build / "onnx", "onnx", config=config) as staging:
        trace_graphs(model, staging, "fp32")
    build_repository(build / "onnx", build / "repository")
    return build / "repository"
