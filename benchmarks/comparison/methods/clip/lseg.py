"""LSeg (Li et al. 2022): pixel embeddings of a trained image tower against the classes' texts."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.budget import Budget
from benchmarks.comparison.methods.clip.towers import (
    ClipConfig,
    Words,
    require_vit,
    tower_pixels,
    words_of,
)
from benchmarks.comparison.methods.fitting import fit_network, trained_parameters
from benchmarks.comparison.methods.interface import Fitted, Task
from benchmarks.comparison.methods.semantic import (
    ClassMaps,
    SemanticBatch,
    SemanticBatches,
    class_map_segmenter,
)
from cpcsam.clip.towers import ClipTowers
from training.bilevel.config import OptimizerConfig
from training.loop.distributed import training_device

__all__ = [
    "DenseTower",
    "LSegMethod",
    "LSegNetwork",
    "SpatialRegularisation",
    "pixel_targets",
    "training_windows",
]

LEVELS: Final = 4
"""Depths of a tower that dense predictions combine, as DPT has them."""
FEATURES: Final = 128
"""Channels of the decoder."""


class DenseTower(nn.Module):
    """A trainable copy of CLIP's image tower that embeds every patch.

    Attributes:
        width: channels of the blocks' tokens.

    Raises:
        ConfigError: the tower is no vision transformer of open_clip.
    """

    def __init__(self, towers: ClipTowers) -> None:
        super().__init__()
        self.visual = copy.deepcopy(require_vit(towers)).requires_grad_(True)
        self.width = int(self.visual.proj.shape[0])
        blocks = len(self.visual.transformer.resblocks)
        self._levels = [math.ceil(blocks * (level + 1) / LEVELS) - 1 for level in range(LEVELS)]

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Embed patches.

        Args:
            pixels: (B, 3, S, S), normalised.

        Returns:
            Tokens of four depths, each (B, width, G, G), and the last block's in the texts' space,
            (B, d, G, G), not normalised; G is S / patch size.
        """
        chosen = sorted(set(self._levels))
        found = self.visual.forward_intermediates(pixels, indices=chosen, intermediates_only=True)
        tokens = [found["image_intermediates"][chosen.index(level)] for level in self._levels]
        last = self.visual.ln_post(tokens[-1].movedim(1, -1)) @ self.visual.proj
        return tokens, last.movedim(-1, 1)


class SpatialRegularisation(nn.Module):
    """LSeg's bottleneck block: one 3x3 kernel for all classes, plus the pixel's largest logit.

    As no weight belongs to a class, the order and number of classes do not matter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, k, H, W) to the same shape, before the activation."""
        each = self.kernel(logits.flatten(0, 1)[:, None])[:, 0].unflatten(0, logits.shape[:2])
        result: Tensor = each + logits.amax(1, keepdim=True)
        return result


class LSegNetwork(nn.Module):
    """LSeg (Li et al. 2022): pixel embeddings of a trained image tower against texts.

    The tower's tokens of four depths are joined by DPT's decoder.

    Args:
        towers: CLIP, whose image tower is the trained encoder.
        blocks: spatial regularisation blocks.
    """

    def __init__(self, towers: ClipTowers, blocks: int) -> None:
        super().__init__()
        self.tower = DenseTower(towers)
        width, self.scale = self.tower.width, towers.logit_scale
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, FEATURES, 1), resized)
            for resized in (
                nn.ConvTranspose2d(FEATURES, FEATURES, 4, stride=4),
                nn.ConvTranspose2d(FEATURES, FEATURES, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(FEATURES, FEATURES, 3, stride=2, padding=1),
            )
        )
        self.fuse = nn.ModuleList(_Residual(FEATURES) for _ in range(LEVELS))
        self.head = nn.Conv2d(FEATURES, towers.embed_dim, 1)
        self.blocks = nn.ModuleList(SpatialRegularisation() for _ in range(blocks))

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, d, 4G, 4G) of unit length."""
        tokens, _ = self.tower(pixels)
        levels = [layer(one) for layer, one in zip(self.reassemble, tokens, strict=True)]
        joined = torch.zeros_like(levels[-1])
        for level, fuse in zip(reversed(levels), self.fuse, strict=True):
            # G need not be even, so sizes are the finer level's rather than twice the coarser's.
            joined = F.interpolate(joined, level.shape[-2:], mode="bilinear")
            joined = fuse(joined + level)
        return F.normalize(self.head(joined), dim=1)

    def forward(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """(B, 3, S, S) and (k, d) to logits (B, k, S, S)."""
        logits = self.scale * torch.einsum("bdhw,kd->bkhw", self.embed(pixels), texts)
        for index, block in enumerate(self.blocks):
            logits = block(logits)
            if index + 1 < len(self.blocks):
                logits = F.relu(logits)
        return F.interpolate(logits, pixels.shape[-2:], mode="bilinear")


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


def pixel_targets(masks: Tensor) -> Tensor:
    """(B, k, H, W) bool to (B, H, W) int64: the class of each pixel, k for the background."""
    index = masks.float().argmax(1)
    return torch.where(masks.any(1), index, masks.shape[1])


@dataclass(frozen=True)
class LSegMethod:
    """LSeg as a method.

    Attributes:
        label: for tables.
        clip: towers and texts.
        blocks: spatial regularisation blocks, none by default.
        images: windows a step.
        optimizer: `lr_capl` and `lr_points` are unused.
        workers: processes that prepare batches.
    """

    label: str
    clip: ClipConfig = field(default_factory=ClipConfig)
    blocks: int = 0
    images: int = 4
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-4))
    workers: int = 0

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Train by pixel-wise cross-entropy on the training images' classes."""
        device = training_device()
        torch.manual_seed(seed)
        towers = self.clip.load(device)
        seen, words = words_of(task, towers, self.clip)
        network = LSegNetwork(towers, self.blocks).to(device)
        side = towers.preprocess.image_size

        def loss_of(batch: SemanticBatch) -> Tensor:
            logits = network(tower_pixels(batch.image, towers.preprocess), seen.texts)
            return F.cross_entropy(logits, pixel_targets(batch.masks))

        batches = training_windows(task, seen, side, self.images, seed)
        spent = fit_network(network, loss_of, batches, budget, self.optimizer, device, self.workers)

        def maps(images: Tensor) -> Tensor:
            logits: Tensor = network(tower_pixels(images, towers.preprocess), words.texts)
            return logits.softmax(1)[:, :-1]

        graphs = ClassMaps(maps, side, device)
        return Fitted(class_map_segmenter(graphs, task), spent, trained_parameters(network))


def training_windows(task: Task, seen: Words, side: int, images: int, seed: int) -> SemanticBatches:
    """Windows of the training images alone, labelled by their own classes."""
    return SemanticBatches(replace(task, names=seen.names, support=()), side, images, seed)
