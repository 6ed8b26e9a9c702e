"""SwinUnet (Cao et al. 2021, Swin-Unet): a U-shaped network of shifted-window attention.

Blocks and patch merging are timm's; patch expanding, its inverse, is defined here, as is the way in
which the decoder joins the encoder's tokens. Widths and depths are the publication's; windows have
8 tokens a side instead of 7, as sides S are powers of two here and not multiples of 224.
"""

from __future__ import annotations

from typing import Final

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn

__all__ = ["PatchExpanding", "SwinUnet"]

WIDTH: Final = 96
HEADS: Final = (3, 6, 12, 24)
DEPTH: Final = 2
"""Blocks of every stage."""
PATCH: Final = 4
WINDOW: Final = 8


class PatchExpanding(nn.Module):
    """Tokens (B, h, w, C) to (B, f·h, f·w, C') by a linear layer whose outputs become pixels.

    Args:
        width: C.
        factor: f.
        out: C'.
    """

    def __init__(self, width: int, factor: int, out: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(width, factor * factor * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Expand."""
        side = self.factor
        x = self.expand(x).unflatten(-1, (side, side, -1))
        # (B, h, w, f, f, C') to (B, h, f, w, f, C')
        result: Tensor = self.norm(x.transpose(2, 3).flatten(3, 4).flatten(1, 2))
        return result


class SwinUnet(nn.Module):
    """Class logits of every pixel, (B, 3, S, S) to (B, classes, S, S).

    Args:
        classes: number of maps.
        image_size: S in pixels, a multiple of 32.
        drop_path: largest rate of stochastic depth.
    """

    def __init__(self, classes: int, image_size: int, drop_path: float = 0.1) -> None:
        super().__init__()
        grids = [image_size // PATCH // 2**level for level in range(len(HEADS))]
        widths = [WIDTH * 2**level for level in range(len(HEADS))]
        last = DEPTH * len(HEADS) - 1

        def stage(level: int, *, merge: bool) -> SwinTransformerStage:
            before = level - merge
            return SwinTransformerStage(
                widths[before],
                widths[level],
                (grids[before], grids[before]),
                DEPTH,
                downsample=merge,
                num_heads=HEADS[level],
                window_size=WINDOW,
                drop_path=[drop_path * (DEPTH * level + k) / last for k in range(DEPTH)],
            )

        self.embed = PatchEmbed(
            image_size, PATCH, 3, WIDTH, norm_layer=nn.LayerNorm, flatten=False, output_fmt="NHWC"
        )
        self.encoder = nn.ModuleList(stage(level, merge=level > 0) for level in range(len(HEADS)))
        self.norm = nn.LayerNorm(widths[-1])
        upwards = list(reversed(range(len(HEADS) - 1)))
        self.expand = nn.ModuleList(
            PatchExpanding(widths[level + 1], 2, widths[level]) for level in upwards
        )
        self.join = nn.ModuleList(nn.Linear(2 * widths[level], widths[level]) for level in upwards)
        self.decoder = nn.ModuleList(stage(level, merge=False) for level in upwards)
        self.norm_up = nn.LayerNorm(WIDTH)
        self.to_pixels = PatchExpanding(WIDTH, PATCH, WIDTH)
        self.head = nn.Conv2d(WIDTH, classes, 1, bias=False)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        x = self.embed(image)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.norm(x)
        for expand, join, stage, skip in zip(
            self.expand, self.join, self.decoder, reversed(skips[:-1]), strict=True
        ):
            x = stage(join(torch.cat([expand(x), skip], -1)))
        logits: Tensor = self.head(self.to_pixels(self.norm_up(x)).permute(0, 3, 1, 2))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
