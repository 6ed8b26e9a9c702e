"""Official SAM key layout: recognise a model by its shapes, resize it to another image size."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from cpcsam.contract import EMBED_DIM, PATCH_SIZE, grid_size
from cpcsam.errors import ArtifactError
from cpcsam.model.build_sam import ENCODERS

__all__ = ["recognise", "resize_positions"]

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
