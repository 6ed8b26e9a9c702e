"""Interface of few-shot networks, and how they resize maps and masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FewShotNetwork", "resized", "resized_masks"]


class FewShotNetwork(nn.Module, ABC):
    """A network that segments a class by support images. Images are (…, 3, S, S) uint8."""

    @abstractmethod
    def loss(
        self, query: Tensor, query_masks: Tensor, support: Tensor, support_masks: Tensor
    ) -> Tensor:
        """Scalar loss of B episodes with one support image each; masks are (B, S, S) bool."""

    @abstractmethod
    def remember(self, images: Tensor, masks: Tensor) -> Any:
        """Turn a class's K support images and masks (K, S, S) bool into what is compared."""

    @abstractmethod
    def probabilities(self, images: Tensor, memories: Sequence[Any]) -> Tensor:
        """Probabilities of classes, (B, classes, S, S), by what `remember` returned of each."""


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly, corner to corner, as both publications do."""
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def resized_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (B, S, S) bool to (B, 1, h, w) float32 in [0, 1]."""
    return resized(masks.unsqueeze(1).float(), size)
