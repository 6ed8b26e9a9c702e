"""Classification of regions by CLIP, as OVSeg, OpenSeg, ZegFormer and OVSAM each do it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.comparison.methods.clip.lseg import DenseTower
from benchmarks.comparison.methods.clip.towers import (
    BoolMask,
    RegionBatch,
    SamFeatures,
    Words,
    masked_crops,
    pool_by_masks,
    require_vit,
    tower_pixels,
)
from cpcsam.clip.towers import ClipTowers

__all__ = ["SCORERS", "OpenSeg", "OvSam", "OvSeg", "Scorer", "ZegFormer", "fuse", "grounding_loss"]

SAM_WIDTH: Final = 256
"""Channels of SAM's image embeddings."""
CHUNK: Final = 32
"""Crops that are embedded at once."""


class Scorer(nn.Module, ABC):
    """A trainable classification of regions.

    Args:
        towers: CLIP, frozen.
        sam: features of the model whose masks are classified.
        words: to train with.
    """

    def __init__(self, towers: ClipTowers, sam: SamFeatures, words: Words) -> None:
        super().__init__()
        self.towers = towers
        self.sam = sam
        self.scale = towers.logit_scale

    @abstractmethod
    def logits(self, image: NDArray[np.uint8], masks: Tensor, words: Words) -> Tensor:
        """Compare regions with words.

        Args:
            image: (H, W, 3) uint8.
            masks: (n, H, W) bool, none of them empty.
            words: k classes.

        Returns:
            (n, k + 1), the background's last.
        """

    def loss(self, batch: RegionBatch, words: Words) -> Tensor:
        """Scalar training loss: cross-entropy of the regions over the words and the background."""
        return F.cross_entropy(self.batch_logits(batch, words), batch.labels)

    @torch.no_grad()
    def scores(self, image: NDArray[np.uint8], masks: BoolMask, words: Words) -> Tensor:
        """Score regions in [0, 1], by a softmax; shapes as in `logits`."""
        shown = torch.from_numpy(masks).to(words.texts.device)
        return self.logits(image, shown, words).softmax(1)

    def batch_logits(self, batch: RegionBatch, words: Words) -> Tensor:
        """(R, k + 1), those of a batch's regions."""
        windows = range(len(batch.image))
        return torch.cat(
            [self.logits(batch.image_array(one), batch.of_window(one), words) for one in windows]
        )


class OvSeg(Scorer):
    """OVSeg (Liang et al. 2023): CLIP of masked crops, with mask prompt tuning.

    Patches that a mask leaves out are zero tokens; trained ones, zero at first, take their place.
    """

    def __init__(self, towers: ClipTowers, sam: SamFeatures, words: Words) -> None:
        super().__init__(towers, sam, words)
        layer, side = require_vit(towers).conv1, towers.preprocess.image_size
        self.patch = layer.kernel_size[0]
        grid = side // self.patch
        self.prompts = nn.Parameter(torch.zeros(layer.out_channels, grid, grid))
        self.no_object = nn.Parameter(words.texts[-1].clone())

    def embed(self, pixels: Tensor, shown: Tensor) -> Tensor:
        """Embed crops, (n, 3, S, S) with their masks (n, S, S), to (n, d) of unit length."""
        inside = F.max_pool2d(shown.float()[:, None], self.patch) > 0

        def prompt(_layer: nn.Module, _inputs: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
            return torch.where(inside, tokens, self.prompts)

        handle = self.towers.model.visual.conv1.register_forward_hook(prompt)
        try:
            embedded: Tensor = self.towers.model.encode_image(pixels, normalize=True)
        finally:
            handle.remove()
        return embedded

    def logits(self, image: NDArray[np.uint8], masks: Tensor, words: Words) -> Tensor:
        """Cosines of crops and texts over CLIP's temperature."""
        crops = masked_crops(image, masks.cpu().numpy(), self.towers.preprocess)
        parts = zip(*(part.to(masks.device).split(CHUNK) for part in crops), strict=True)
        embedded = torch.cat([self.embed(*part) for part in parts])
        texts = torch.cat([words.texts[:-1], F.normalize(self.no_object, dim=0)[None]])
        return self.scale * embedded @ texts.T


class OpenSeg(Scorer):
    """OpenSeg (Ghiasi et al. 2022): dense features pooled by proposals, aligned with words."""

    def __init__(self, towers: ClipTowers, sam: SamFeatures, words: Words) -> None:
        super().__init__(towers, sam, words)
        self.tower = DenseTower(towers)
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.scale)))

    def logits(self, image: NDArray[np.uint8], masks: Tensor, words: Words) -> Tensor:
        """Cosines of pooled features and texts over the learned temperature."""
        whole = torch.from_numpy(image).permute(2, 0, 1)[None].to(masks.device)
        _, dense = self.tower(tower_pixels(whole, self.towers.preprocess))
        regions = F.normalize(pool_by_masks(dense[0], masks), dim=-1)
        return self.log_scale.exp() * regions @ words.texts.T

    def loss(self, batch: RegionBatch, words: Words) -> Tensor:
        """Grounding loss of the windows' words, and cross-entropy of the regions over all words.

        The publication knows captions alone; annotation tells which mask each word means.
        """
        logits = self.batch_logits(batch, words)
        captions = [
            batch.labels[(batch.owner == index) & (batch.labels < len(words.names))].unique()
            for index in range(len(batch.image))
        ]
        known = F.cross_entropy(logits, batch.labels)
        return grounding_loss(logits, batch.owner, captions) + known


def grounding_loss(logits: Tensor, owner: Tensor, captions: list[Tensor]) -> Tensor:
    """Contrast images with captions by their regions' similarity to words (OpenSeg, section 3.2).

    An image and a caption are as similar as the caption's words are on average to the image's
    regions, each word attending to regions by a softmax.

    Args:
        logits: (R, k), similarity of regions and words over the temperature.
        owner: (R,) int64, the image of each region.
        captions: the words of each image, int64; images without words are left out.
    """
    described = [index for index, words in enumerate(captions) if len(words)]
    if not described:
        return logits.sum() * 0
    rows = []
    for image in described:
        similarity = logits[owner == image]
        # (k,): the mean over regions, weighted by each word's attention
        grounded = (similarity.softmax(0) * similarity).sum(0)
        rows.append(torch.stack([grounded[captions[other]].mean() for other in described]))
    pairs = torch.stack(rows)
    target = torch.arange(len(described), device=pairs.device)
    return F.cross_entropy(pairs, target) + F.cross_entropy(pairs.T, target)


class ZegFormer(Scorer):
    """ZegFormer (Ding et al. 2022): a query's embedding and CLIP of the crop, fused.

    SAM's features under a mask stand for the transformer decoder's query of it.
    """

    def __init__(self, towers: ClipTowers, sam: SamFeatures, words: Words) -> None:
        super().__init__(towers, sam, words)
        dim = words.texts.shape[1]
        self.query = nn.Sequential(
            nn.Linear(SAM_WIDTH, SAM_WIDTH), nn.GELU(), nn.Linear(SAM_WIDTH, dim)
        )
        self.no_object = nn.Parameter(words.texts[-1].clone())

    def logits(self, image: NDArray[np.uint8], masks: Tensor, words: Words) -> Tensor:
        """Cosines of queries and texts over CLIP's temperature."""
        queries = F.normalize(self.query(self.sam.pool(image, masks)), dim=-1)
        return self.scale * queries @ torch.cat([words.texts[:-1], self.no_object[None]]).T

    @torch.no_grad()
    def scores(self, image: NDArray[np.uint8], masks: BoolMask, words: Words) -> Tensor:
        """Fused probabilities of query and crop."""
        device = words.texts.device
        logits = self.logits(image, torch.from_numpy(masks).to(device), words)
        pixels, _ = masked_crops(image, masks, self.towers.preprocess)
        encode = self.towers.model.encode_image
        parts = [encode(part.to(device), normalize=True) for part in pixels.split(CHUNK)]
        similarity = self.scale * torch.cat(parts) @ words.texts[:-1].T
        # CLIP knows no "no object": it takes the query's.
        crop = torch.cat([similarity, logits[:, -1:]], 1).softmax(1)
        return fuse(logits.softmax(1), crop, words.seen)


def fuse(query: Tensor, crop: Tensor, seen: Tensor, balance: float = 2 / 3) -> Tensor:
    """Fuse probabilities by a geometric mean that trusts queries for seen classes alone.

    Of a seen class it is query^λ · mean^(1-λ) with CLIP's mean over the seen classes, of an unseen
    one query^(1-λ) · crop^λ (ZegFormer, equation 5). "No object" counts as seen, with CLIP's own.

    Args:
        query: (n, k + 1), "no object" last.
        crop: (n, k + 1), of CLIP.
        seen: (k,) bool.
        balance: λ.
    """
    known = torch.cat([seen, seen.new_ones(1)])
    mean = (crop[:, :-1] * seen).sum(1, keepdim=True) / seen.sum().clamp(min=1)
    levelled = torch.cat([torch.where(seen, mean, crop[:, :-1]), crop[:, -1:]], 1)
    of_seen = query**balance * levelled ** (1 - balance)
    of_unseen = query ** (1 - balance) * levelled**balance
    return torch.where(known, of_seen, of_unseen)


class OvSam(Scorer):
    """OVSAM (Yuan et al. 2024): SAM's masks named by frozen CLIP features under them.

    CLIP2SAM, a feature pyramid of CLIP that the decoder's label token joins, is reduced to a
    perceptron of both models' features under the mask, zero at first; SAM2CLIP, which distils SAM
    into CLIP's encoder, is left out, as SAM's own encoder stays.
    """

    def __init__(self, towers: ClipTowers, sam: SamFeatures, words: Words) -> None:
        super().__init__(towers, sam, words)
        dim = words.texts.shape[1]
        self.fusion = nn.Sequential(
            nn.Linear(dim + SAM_WIDTH, SAM_WIDTH), nn.GELU(), nn.Linear(SAM_WIDTH, dim)
        )
        for parameter in self.fusion[-1].parameters():
            nn.init.zeros_(parameter)

    def logits(self, image: NDArray[np.uint8], masks: Tensor, words: Words) -> Tensor:
        """Cosines of fused features and texts over CLIP's temperature."""
        dense = torch.from_numpy(self.towers.dense(image)).to(masks.device)
        pooled = pool_by_masks(dense.permute(2, 0, 1), masks)
        both = torch.cat([pooled, self.sam.pool(image, masks)], 1)
        return self.scale * F.normalize(pooled + self.fusion(both), dim=-1) @ words.texts.T

    def loss(self, batch: RegionBatch, words: Words) -> Tensor:
        """Cross-entropy over the words and the background, which weighs a tenth as published."""
        weight = torch.ones(len(words.texts), device=words.texts.device)
        weight[-1] = 0.1
        return F.cross_entropy(self.batch_logits(batch, words), batch.labels, weight)


SCORERS: Final[Mapping[str, type[Scorer]]] = MappingProxyType(
    {"ovseg": OvSeg, "openseg": OpenSeg, "zegformer": ZegFormer, "ovsam": OvSam}
)
