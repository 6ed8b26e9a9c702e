"""HSNet (Min et al. 2021, hypercorrelation squeeze): dense similarities of query and support.

Cosine similarities between all cells of the query's and the support's features, one 4D tensor a
layer, form a pyramid. Centre-pivot 4D convolutions squeeze the support's two dimensions and pass
coarse levels on to finer ones; a 2D decoder turns what remains into the query's mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.comparison.methods.few_shot.network import (
    FewShotNetwork,
    resized,
    resized_masks,
)
from benchmarks.comparison.methods.fitting import normalised

__all__ = ["CentrePivotConv4d", "HsNet", "hypercorrelation"]

Pyramid = list[list[Tensor]]
"""Features (B, C, h, w) of the blocks of each stage, the finest stage first."""

WIDTHS: Final = (16, 64, 128)
"""Channels of the squeezing blocks' three layers."""
GROUPS: Final = 4
"""Groups of the norms."""
SQUEEZING: Final = (((5, 4), (5, 4), (3, 2)), ((5, 4), (3, 2), (3, 2)), ((3, 2), (3, 2), (3, 2)))
"""Kernels and strides of the support's dimensions by layer, for strides 8, 16 and 32."""


class CentrePivotConv4d(nn.Module):
    """4D convolution whose kernel is zero off its two central planes (HSNet, Eq. 5).

    One plane convolves the query's dimensions at the support's own cell, the other the support's
    at the query's; the query's stride is 1.

    Args:
        before: channels of the input.
        after: channels of the output.
        kernel: side, odd.
        stride: of the support's dimensions.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.query = nn.Conv2d(before, after, kernel, padding=kernel // 2)
        self.support = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w, H, W) to (B, C', h, w, H', W'), query before support."""
        pruned = x[..., :: self.stride, :: self.stride]
        return _over_query(self.query, pruned) + _over_support(self.support, x)


def _over_query(function: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2D function to the query's dimensions at each of the support's cells."""
    batch, _, _, _, height, width = x.shape
    flat = function(x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2))
    y: Tensor = flat.unflatten(0, (batch, height, width)).permute(0, 3, 4, 5, 1, 2)
    return y


def _over_support(function: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2D function to the support's dimensions at each of the query's cells."""
    batch, _, height, width = x.shape[:4]
    flat = function(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    y: Tensor = flat.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2, 4, 5)
    return y


def hypercorrelation(query: Sequence[Tensor], support: Sequence[Tensor]) -> Tensor:
    """Cosine similarities of all pairs of cells, negative ones as 0 (HSNet, Eq. 1).

    Args:
        query: features of a stage's L blocks, each (B, C, h, w).
        support: features of the same blocks, zero where the support's mask is.

    Returns:
        (B, L, h, w, h, w), query before support.
    """
    pairs = zip(query, support, strict=True)
    return torch.stack(
        [
            torch.einsum("bchw,bcij->bhwij", F.normalize(one, dim=1), F.normalize(other, dim=1))
            for one, other in pairs
        ],
        1,
    ).clamp(min=0)


class HsNet(FewShotNetwork):
    """HSNet on the blocks of a ResNet's stages 2 to 4.

    Args:
        encoder: a ResNet of segmentation-models-pytorch.
        weights: None trains the encoder as well; with others it is frozen, as published.
    """

    def __init__(self, encoder: str, weights: str | None) -> None:
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder  # it takes seconds to import
        from torchvision.models.feature_extraction import create_feature_extractor

        network = get_encoder(encoder, weights=weights)
        stages = [getattr(network, f"layer{index}") for index in (2, 3, 4)]
        self.names = [
            [f"layer{index}.{block}.add" for block in range(len(stage))]
            for index, stage in enumerate(stages, 2)
        ]
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                # Features are taken before a block's last activation, which must not change them.
                module.inplace = False
        self.encoder = create_feature_extractor(network, sum(self.names, []))
        self.is_frozen = weights is not None
        self.encoder.requires_grad_(not self.is_frozen)
        self.squeeze = nn.ModuleList(
            _block((len(stage), *WIDTHS), kernels)
            for stage, kernels in zip(stages, SQUEEZING, strict=True)
        )
        last = WIDTHS[-1]
        self.mix = nn.ModuleList(_block((last,) * 4, ((3, 1),) * 3) for _ in stages[1:])
        self.decode = nn.Sequential(_conv(last, last), nn.ReLU(), _conv(last, WIDTHS[1]), nn.ReLU())
        self.classify = nn.Sequential(_conv(WIDTHS[1], WIDTHS[1]), nn.ReLU(), _conv(WIDTHS[1], 2))

    def train(self, mode: bool = True) -> HsNet:
        """Switch to training; a frozen encoder keeps its statistics."""
        super().train(mode)
        if self.is_frozen:
            self.encoder.eval()
        return self

    def features(self, images: Tensor) -> Pyramid:
        """(B, 3, S, S) uint8 to the blocks' outputs before their last activations."""
        found = self.encoder(normalised(images))
        return [[found[name] for name in names] for names in self.names]

    def remember(self, images: Tensor, masks: Tensor) -> Pyramid:
        """Support images' features, zero off the class; see `FewShotNetwork`."""
        return [
            [one * resized_masks(masks, one.shape[-2:]) for one in stage]
            for stage in self.features(images)
        ]

    def loss(
        self, query: Tensor, query_masks: Tensor, support: Tensor, support_masks: Tensor
    ) -> Tensor:
        """Cross-entropy of the query's masks."""
        # Together, as batch norm's statistics are of both at the test.
        both = self.features(torch.cat([query, support]))
        parts = [[one.chunk(2) for one in stage] for stage in both]
        shown = [
            [one[1] * resized_masks(support_masks, one[1].shape[-2:]) for one in stage]
            for stage in parts
        ]
        logits = self.logits([[one[0] for one in stage] for stage in parts], shown)
        maps = resized(logits.float(), query.shape[-2:])
        return F.cross_entropy(maps, query_masks.long())

    def logits(self, query: Pyramid, support: Pyramid) -> Tensor:
        """Features to logits of background and class, (B, 2, S / 4, S / 4)."""
        levels = [
            squeeze(hypercorrelation(one, other))
            for squeeze, one, other in zip(self.squeeze, query, support, strict=True)
        ]
        mixed = levels[-1]
        # From the coarsest level to the finest.
        for mix, level in zip(self.mix, reversed(levels[:-1]), strict=True):
            larger = nn.Upsample(level.shape[2:4], mode="bilinear", align_corners=True)
            finer = _over_query(larger, mixed)
            mixed = mix(finer + level)
        decoded = self.decode(mixed.mean((-2, -1)))
        doubled = resized(decoded, [2 * side for side in decoded.shape[-2:]])
        result: Tensor = self.classify(doubled)
        return result

    def probabilities(self, images: Tensor, memories: Sequence[Pyramid]) -> Tensor:
        """Mean over a class's support images of its probability; see `FewShotNetwork`."""
        query = self.features(images)
        maps = []
        for memory in memories:
            votes = [
                self.logits(
                    query,
                    [[one[k : k + 1].expand(len(images), -1, -1, -1) for one in s] for s in memory],
                )
                for k in range(len(memory[0][0]))
            ]
            sized = [resized(vote.float(), images.shape[-2:]).softmax(1)[:, 1] for vote in votes]
            maps.append(torch.stack(sized).mean(0))
        return torch.stack(maps, 1)


def _block(widths: Sequence[int], kernels: Sequence[tuple[int, int]]) -> nn.Sequential:
    """Centre-pivot convolutions with group norms."""
    layers: list[nn.Module] = []
    for (before, after), (kernel, stride) in zip(pairwise(widths), kernels, strict=True):
        layers += [
            CentrePivotConv4d(before, after, kernel, stride),
            nn.GroupNorm(GROUPS, after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)
