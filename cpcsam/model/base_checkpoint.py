"""Bases: SAM without CaPL, an artifact of this project or an official checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from cpcsam.artifacts.manifest import publish, read_manifest, sha256_file
from cpcsam.errors import ArtifactError
from cpcsam.model.build_sam import build_sam
from cpcsam.model.official_checkpoints import named_if_official, warn_if_damaged
from cpcsam.model.official_layout import recognise, resize_positions
from cpcsam.model.sam import CpcSam
from cpcsam.model.state_dict import (
    cpu_state,
    fill,
    read_pth,
    read_safetensors,
    require_finite,
    require_fit,
    write_safetensors,
)

__all__ = ["MODEL_FILE", "base_digest", "inspect_base", "load_base", "save_base", "sizes_of"]

MODEL_FILE: Final = "model.safetensors"


def load_base(path: Path, model_size: str | None = None, image_size: int | None = None) -> CpcSam:
    """Load a SAM without CaPL, in float32 and evaluation mode.

    Args:
        path: an artifact of kind `checkpoint`, or an official `sam_vit_{b,l,h}_*.pth`.
        model_size: refuse any other size; None accepts what the file holds.
        image_size: side S in pixels; positional embeddings are interpolated where the file's
            differs. None keeps the file's.

    Raises:
        ArtifactError: missing, altered or cut short, not SAM's layout, or not `model_size`.
        ConfigError: an `image_size` that the contract does not know.
    """
    with named_if_official(path):
        state, found_size, found_image_size = _read_base(path)
        if model_size is not None and found_size != model_size:
            raise ArtifactError.of(
                str(path),
                got=found_size,
                expected=model_size,
                fix="give another base or model_size",
            )
        sam = build_sam(found_size, image_size or found_image_size)
        resized = resize_positions(state, found_size, image_size or found_image_size)
        fill(sam, resized, str(path))
    warn_if_damaged(path)
    return CpcSam(sam).eval()


def inspect_base(path: Path) -> tuple[str, int]:
    """Return (model_size, image_size) of a base, checking every tensor's name and shape.

    Args:
        path: as for `load_base`.

    Raises:
        ArtifactError: as `load_base`.
        ConfigError: an image size that the contract does not know.
    """
    with named_if_official(path):
        state, model_size, image_size = _read_base(path)
        # Names and shapes alone: nothing is allocated or initialised.
        with torch.device("meta"):
            wanted = build_sam(model_size, image_size).state_dict()
        require_fit(state, wanted, str(path))
    return model_size, image_size


def save_base(
    model: CpcSam,
    path: Path,
    *,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    parents: Mapping[str, str] | None = None,
) -> None:
    """Publish the model's SAM as an artifact of kind `checkpoint`, in float16.

    Args:
        model: its CaPL, if any, is left out.
        path: the artifact's directory.
        config: the recipe; model_size and image_size are added.
        metrics: measured figures.
        parents: digests of what it was made from.

    Raises:
        ArtifactError: LoRA is still injected, or a weight is not finite in float16.
    """
    state = {name: tensor.half() for name, tensor in cpu_state(model.sam).items()}
    # After the conversion, in which weights beyond float16's range become infinite.
    require_finite(state, str(path))
    full_config = {**(config or {}), **sizes_of(model, str(path))}
    with publish(
        path, "checkpoint", parents=parents, config=full_config, metrics=dict(metrics or {})
    ) as staging:
        write_safetensors(state, staging / MODEL_FILE)


def base_digest(path: Path) -> str:
    """Return the SHA-256 of a base's weights file, by which later stages identify the base."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError.of(
            str(file), got="no such file", expected="a base's weights", fix="give the base's path"
        )
    return sha256_file(file)


def sizes_of(model: CpcSam, source: str) -> dict[str, Any]:
    """Return what every artifact records of a model: `model_size` and `image_size`.

    Args:
        model: LoRA may be injected.
        source: its name in errors.
    """
    state = model.sam.state_dict().items()
    # Injected LoRA moves the weights of its layers under `base_layer`.
    plain = {name.replace(".base_layer", ""): tensor for name, tensor in state}
    return {"model_size": recognise(plain, source)[0], "image_size": model.image_size}


def _read_base(path: Path) -> tuple[dict[str, Tensor], str, int]:
    """Read (state, model_size, image_size) of an artifact or an official file."""
    if path.is_dir():
        read_manifest(path, "checkpoint")
        state = read_safetensors(path / MODEL_FILE)
    else:
        state = read_pth(path)
    return state, *recognise(state, str(path))
