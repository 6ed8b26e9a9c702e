"""SSP (Fan et al. 2022, self-support few-shot segmentation): the query supports itself.

Prototypes of a class and of its background are means of the support's features. Cells of the query
that match them with confidence give prototypes of the query's own, which match it better: one of
the class, one of the background, and for every cell a background of what resembles the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison.methods.few_shot.network import (
    FewShotNetwork,
    resized,
    resized_masks,
)
from benchmarks.comparison.methods.fitting import normalised

__all__ = ["Prototypes", "Ssp", "masked_average", "self_support", "similarities"]

SCALE: Final = 10.0
"""Of cosine similarities as logits."""
CONFIDENT: Final = (0.6, 0.7)
"""Probability from which on a cell is taken as background, as the class."""
FEWEST: Final = 12
"""Cells, the likeliest ones, that are taken where none is so likely."""
CLASS_SHARES: Final = (0.5, 0.5)
"""Of the support's and of the query's prototype of the class."""
BACKGROUND_SHARES: Final = (0.3, 0.7)
"""Of the query's prototype of the background and of the adaptive one."""
ADAPTIVE_SCALE: Final = 2.0
"""Of cosine similarities among the query's cells as logits."""
SUPPORT_WEIGHT: Final = 0.2
"""Of the support's own loss."""


@dataclass(frozen=True)
class Prototypes:
    """What features are compared with.

    Attributes:
        background: (B, C, h, w), or with 1 for what is the same at all places or images.
        foreground: likewise, of the class.
    """

    background: Tensor
    foreground: Tensor


def masked_average(features: Tensor, masks: Tensor) -> Tensor:
    """Masked average pooling.

    Args:
        features: (B, C, h, w).
        masks: (B, S, S) bool.

    Returns:
        (B, C, 1, 1); 0 where a mask is empty.
    """
    weights = resized_masks(masks, features.shape[-2:])
    total = (features * weights).sum((-2, -1), keepdim=True)
    return total / (weights.sum((-2, -1), keepdim=True) + 1e-5)


def similarities(features: Tensor, prototypes: Prototypes) -> Tensor:
    """Logits of background and class, (B, 2, h, w): scaled cosine similarities."""
    both = (prototypes.background, prototypes.foreground)
    return SCALE * torch.stack([F.cosine_similarity(features, one, dim=1) for one in both], 1)


def self_support(features: Tensor, support: Prototypes) -> Prototypes:
    """Match the query by prototypes of its own (SSP, Eq. 3 to 7).

    Args:
        features: (B, C, h, w), of the query.
        support: prototypes of the support.

    Returns:
        The class's prototype (B, C, 1, 1) and the background's of every cell, (B, C, h, w).
    """
    probabilities = similarities(features, support).softmax(1).flatten(2)
    cells = features.flatten(2)
    background, foreground = (
        _confident(probabilities[:, index], least) for index, least in enumerate(CONFIDENT)
    )
    of_query = Prototypes(_mean(cells, background), _mean(cells, foreground))
    adaptive = _adaptive(cells, background).unflatten(-1, features.shape[-2:])
    first, second = CLASS_SHARES
    own, local = BACKGROUND_SHARES
    return Prototypes(
        own * of_query.background[..., None] + local * adaptive,
        first * support.foreground + second * of_query.foreground[..., None],
    )


def _confident(probability: Tensor, least: float) -> Tensor:
    """Cells (B, N) bool that are likely enough, or the likeliest ones."""
    chosen = probability > least
    best = probability.topk(min(FEWEST, probability.shape[1])).indices
    likeliest = torch.zeros_like(chosen).scatter(1, best, True)
    return torch.where(chosen.any(1, keepdim=True), chosen, likeliest)


def _mean(cells: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen cells, (B, C, N) to (B, C, 1)."""
    weights = chosen[:, None].to(cells.dtype)
    return (cells * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)


def _adaptive(cells: Tensor, chosen: Tensor) -> Tensor:
    """For every cell a mean of the chosen ones, weighted by their likeness to it, (B, C, N)."""
    directions = F.normalize(cells, dim=1)
    logits = ADAPTIVE_SCALE * directions.transpose(1, 2) @ directions
    # (B, N, N): a row a cell, a column a chosen cell.
    weights = logits.masked_fill(~chosen[:, None], -torch.inf).softmax(-1)
    return cells @ weights.transpose(1, 2)


class Ssp(FewShotNetwork):
    """SSP without refinement on the first three stages of a ResNet, dilated to stride 8.

    Args:
        encoder: a ResNet of segmentation-models-pytorch.
        weights: None trains all of it; with others stem and first stage are frozen, as published.
    """

    def __init__(self, encoder: str, weights: str | None) -> None:
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder  # it takes seconds to import

        self.encoder = get_encoder(encoder, depth=4, weights=weights, output_stride=8)
        del self.encoder.layer4
        if weights is not None:
            for part in (self.encoder.conv1, self.encoder.bn1, self.encoder.layer1):
                part.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 to (B, C, S / 8, S / 8)."""
        found: Tensor = self.encoder(normalised(images))[-1]
        return found

    def loss(
        self, query: Tensor, query_masks: Tensor, support: Tensor, support_masks: Tensor
    ) -> Tensor:
        """Cross-entropy of the query's masks, by support and by itself, and of the support's."""
        features = self.features(torch.cat([query, support]))
        # Sums over thousands of cells need float32.
        with torch.autocast(query.device.type, enabled=False):
            of_query, of_support = features.float().chunk(2)
            by_support = _pooled(of_support, support_masks)
            matched = similarities(of_query, self_support(of_query, by_support))
            # The self-support loss: the query's own prototypes by its true mask must match it.
            by_itself = similarities(of_query, _pooled(of_query, query_masks))
            own = similarities(of_support, by_support)
            return (
                _cross_entropy(matched, query_masks)
                + _cross_entropy(by_itself, query_masks)
                + SUPPORT_WEIGHT * _cross_entropy(own, support_masks)
            )

    def remember(self, images: Tensor, masks: Tensor) -> Prototypes:
        """The mean of the support images' prototypes; see `FewShotNetwork`."""
        pooled = _pooled(self.features(images), masks)
        return Prototypes(pooled.background.mean(0, True), pooled.foreground.mean(0, True))

    def probabilities(self, images: Tensor, memories: Sequence[Prototypes]) -> Tensor:
        """Match every class's prototypes; see `FewShotNetwork`."""
        features = self.features(images)
        maps = [similarities(features, self_support(features, memory)) for memory in memories]
        return torch.stack([resized(one, images.shape[-2:]).softmax(1)[:, 1] for one in maps], 1)


def _pooled(features: Tensor, masks: Tensor) -> Prototypes:
    return Prototypes(masked_average(features, ~masks), masked_average(features, masks))


def _cross_entropy(maps: Tensor, masks: Tensor) -> Tensor:
    return F.cross_entropy(resized(maps, masks.shape[-2:]), masks.long())
