"""Bases: SAM without CaPL, an artifact of this project or an official checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from cpcsam.artifacts.manifest import publish, read_manifest, sha256_file
from cpcsam.contract import EMBED_DIM, PATCH_SIZE, grid_size
from cpcsam.errors import ArtifactError
from cpcsam.model.build_sam import ENCODERS, build_empty_sam, build_sam
from cpcsam.model.official_checkpoints import named_if_official, warn_if_damaged
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

__all__ = [
    "MODEL_FILE",
    "base_digest",
    "inspect_base",
    "load_base",
    "recognise",
    "resize_positions",
    "save_base",
    "sizes_of",
]

POS_EMBED = "image_encoder.pos_embed"
REL_POS = "image_encoder.blocks.{block}.attn.rel_pos_{axis}"


def recognise(state: Mapping[str, Tensor], source: str) -> tuple[str, int]:
    """Return (model_size, image_size) of a SAM state dict from its shapes.

    Args:
        state: tensors under segment-anything's names.
        source: its name in errors.

    Raises:
        ArtifactError: not SAM's layout, or of none of the known sizes.
    """
    pos_embed = state.get(POS_EMBED)
    neck = state.get("image_encoder.neck.0.weight")
    if pos_embed is None or pos_embed.dim() != 4 or neck is None or neck.shape[0] != EMBED_DIM:
        raise ArtifactError.of(
            source,
            got=f"{len(state)} tensors ({', '.join(sorted(state)[:2])} …)",
            expected=f"SAM's state dict, with {POS_EMBED} and the decoder",
            fix="give an official sam_vit_{b,l,h}_*.pth or an artifact of kind checkpoint",
        )
    width = pos_embed.shape[-1]
    prefix = "image_encoder.blocks."
    depth = len({name.split(".")[2] for name in state if name.startswith(prefix)})
    for model_size, encoder in ENCODERS.items():
        if (encoder.embed_dim, encoder.depth) == (width, depth):
            return model_size, pos_embed.shape[1] * PATCH_SIZE
    known = ", ".join(f"{name} {size.embed_dim}×{size.depth}" for name, size in ENCODERS.items())
    raise ArtifactError.of(
        source,
        got=f"an encoder of width {width} and {depth} blocks",
        expected=f"one of {known}",
        fix="the file is cut short or of another model; download it again",
    )


def resize_positions(
    state: Mapping[str, Tensor], model_size: str, image_size: int
) -> dict[str, Tensor]:
    """Interpolate absolute and global relative positions to another image size.

    Windows keep their size in tokens, so only global blocks change: `rel_pos` linearly, as
    segment-anything itself would at every call, and `pos_embed` bicubically.

    Args:
        state: tensors under segment-anything's names.
        model_size: a key of `ENCODERS`.
        image_size: the wanted S in pixels.

    Returns:
        A new state dict; tensors that already fit are the same objects.
    """
    side = grid_size(image_size)
    resized = dict(state)
    if state[POS_EMBED].shape[1] != side:
        channels_first = state[POS_EMBED].float().permute(0, 3, 1, 2)
        resized[POS_EMBED] = F.interpolate(
            channels_first, size=(side, side), mode="bicubic", antialias=True
        ).permute(0, 2, 3, 1)
    for block in ENCODERS[model_size].global_attn_indexes:
        for axis in "hw":
            name = REL_POS.format(block=block, axis=axis)
            # A row for each offset between two tokens of an axis, 1 - side to side - 1.
            if name in state and state[name].shape[0] != 2 * side - 1:
                table = state[name].float().T.unsqueeze(0)
                resized[name] = F.interpolate(table, size=2 * side - 1, mode="linear")[0].T
    return {name: tensor.contiguous() for name, tensor in resized.items()}


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
        sam = build_empty_sam(found_size, image_size or found_image_size)
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
