"""Model sizes from vit_t to vit_h, built from segment-anything's modules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

from cpcsam.contract import EMBED_DIM, IMAGE_SIZES, NUM_MASKS, PATCH_SIZE, PIXEL_MEAN, PIXEL_STD
from cpcsam.contract import grid_size as grid_size_of
from cpcsam.errors import ConfigError

__all__ = ["ENCODERS", "EncoderSize", "build_empty_sam", "build_sam", "build_sam_with"]


@dataclass(frozen=True)
class EncoderSize:
    """Width and depth of one image encoder.

    Attributes:
        embed_dim: channels of a token.
        depth: number of transformer blocks.
        num_heads: attention heads a block.
        global_attn_indexes: blocks that attend to the whole grid.
        window_size: side of the windows, in tokens, of the other blocks; 0 if there are none.
        default_image_size: S of the published (or shipped) weights.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int
    default_image_size: int


ENCODERS: Final[dict[str, EncoderSize]] = {
    "vit_t": EncoderSize(192, 7, 6, tuple(range(7)), 0, 256),
    "vit_b": EncoderSize(768, 12, 12, (2, 5, 8, 11), 14, 1024),
    "vit_l": EncoderSize(1024, 24, 16, (5, 11, 17, 23), 14, 1024),
    "vit_h": EncoderSize(1280, 32, 16, (7, 15, 23, 31), 14, 1024),
}


def build_sam(model_size: str, image_size: int | None = None) -> Sam:
    """Build an untrained SAM of a named size out of segment-anything's own modules.

    Args:
        model_size: a key of `ENCODERS`.
        image_size: side S of the encoder's input in pixels; None takes the size's default.

    Raises:
        ConfigError: unknown model_size or image_size.
    """
    if model_size not in ENCODERS:
        raise ConfigError.of(
            "model_size", got=model_size, expected=" | ".join(ENCODERS), fix="choose one of them"
        )
    encoder = ENCODERS[model_size]
    image_size = encoder.default_image_size if image_size is None else image_size
    if image_size not in IMAGE_SIZES:
        raise ConfigError.of(
            "image_size",
            got=image_size,
            expected=" | ".join(map(str, IMAGE_SIZES)),
            fix="choose one of them",
        )
    return build_sam_with(encoder, image_size)


def build_empty_sam(model_size: str, image_size: int | None = None) -> Sam:
    """Build a SAM whose weights are to be filled: they take longer to initialise than to read.

    Args:
        model_size: as for `build_sam`.
        image_size: as for `build_sam`.

    Returns:
        A model on the CPU with weights of any value; its constants are in place.

    Raises:
        ConfigError: unknown model_size or image_size.
    """
    with torch.device("meta"):
        sam = build_sam(model_size, image_size)
    sam.to_empty(device="cpu")
    for constant, values in ((sam.pixel_mean, PIXEL_MEAN), (sam.pixel_std, PIXEL_STD)):
        constant.copy_(torch.tensor(values)[:, None, None])
    return sam


def build_sam_with(encoder: EncoderSize, image_size: int) -> Sam:
    """Build an untrained SAM whose encoder has these dimensions; see `build_sam`."""
    grid_size = grid_size_of(image_size)
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=PATCH_SIZE,
            embed_dim=encoder.embed_dim,
            depth=encoder.depth,
            num_heads=encoder.num_heads,
            mlp_ratio=4,
            out_chans=EMBED_DIM,
            qkv_bias=True,
            # The official weights' epsilon; torch's default is 1e-5.
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=encoder.window_size,
            global_attn_indexes=encoder.global_attn_indexes,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBED_DIM,
            image_embedding_size=(grid_size, grid_size),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=NUM_MASKS - 1,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=EMBED_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
