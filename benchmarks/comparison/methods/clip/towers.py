"""CLIP for the comparison's open-vocabulary systems: weights, class texts, features of regions.

Every system scores regions or pixels by the cosine of an image embedding and the embeddings of
the classes' names in templates, so that a class that no training showed needs its name alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison.methods.interface import Task
from cpcsam.artifacts.manifest import sha256_file
from cpcsam.automatic.instance_mask import bbox_from_mask
from cpcsam.backends.protocol import EncoderBackend
from cpcsam.clip.preprocess import Preprocess
from cpcsam.clip.text_classes import phrases_of, pool_phrases
from cpcsam.clip.towers import ClipTowers
from cpcsam.contract import PATCH_SIZE
from cpcsam.errors import ConfigError
from cpcsam.transforms import to_frame
from training.evaluation.torch_model import class_names

__all__ = [
    "BoolMask",
    "ClipConfig",
    "RegionBatch",
    "SamFeatures",
    "Words",
    "masked_crops",
    "pool_by_masks",
    "require_vit",
    "tower_pixels",
    "words_of",
]

TEMPLATES: Final = ("a photo of a {}.", "a cropped photo of a {}.", "a close-up photo of a {}.")
BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP and how classes are put into words.

    Attributes:
        name: of open_clip's configurations, or a JSON file of one.
        weights: file in open_clip's layout; null leaves the systems on CLIP out.
        templates: sentences around a class's name, whose embeddings are averaged.
        background: text of what belongs to no class.
    """

    name: str = "ViT-B-16"
    weights: Path | None = None
    templates: tuple[str, ...] = TEMPLATES
    background: str = "background"

    @property
    def remedy(self) -> str:
        """Overrides that give the weights."""
        return f"clip.name={self.name} clip.weights=PATH"

    def load(self, device: torch.device | None = None) -> ClipTowers:
        """Load the towers.

        Raises:
            ConfigError: no weights are given, or the name is unknown.
            ArtifactError: the weights are not there or of another architecture.
        """
        if self.weights is None:
            raise ConfigError.of(
                "clip.weights",
                got="none",
                expected=f"weights of {self.name}",
                fix=f"give {self.remedy}",
            )
        return ClipTowers.load(self.name, self.weights, str(device or "cpu"))

    def record(self) -> dict[str, Any]:
        """Everything that decides the embeddings; files by their digests."""
        name = Path(self.name)
        return {
            "name": sha256_file(name) if name.suffix == ".json" else self.name,
            "weights": None if self.weights is None else sha256_file(self.weights),
            "templates": list(self.templates),
            "background": self.background,
        }


@dataclass(frozen=True)
class Words:
    """Classes in CLIP's space.

    Attributes:
        names: of n classes.
        texts: (n + 1, d) float32 of unit length, the background's last.
        seen: (n,) bool, the classes that training showed.
    """

    names: tuple[str, ...]
    texts: Tensor
    seen: Tensor


def words_of(task: Task, towers: ClipTowers, config: ClipConfig) -> tuple[Words, Words]:
    """Put a task's classes into words: those to train with, and those to find.

    The support set gives names alone: a system on CLIP learns from the training images.
    """
    seen = class_names(task.train)
    device = towers.model.logit_scale.device
    pair = []
    for names in (seen, task.names):
        texts = [name.replace("_", " ") for name in (*names, config.background)]
        phrases = towers.embed_texts(phrases_of(texts, config.templates))
        pooled = torch.from_numpy(pool_phrases(phrases, config.templates)).to(device)
        known = torch.tensor([name in seen for name in names], dtype=torch.bool, device=device)
        pair.append(Words(names, pooled, known))
    return pair[0], pair[1]


def require_vit(towers: ClipTowers) -> Any:
    """Return the image tower, a vision transformer of open_clip with a projection.

    Raises:
        ConfigError: it is another network, whose patches are not in the texts' space.
    """
    visual = towers.model.visual
    pooled = getattr(visual, "attn_pool", None) is not None
    if pooled or getattr(visual, "proj", None) is None or not hasattr(visual, "transformer"):
        raise ConfigError.of(
            "clip.name",
            got=f"{towers.name}, whose patches have no embeddings of their own",
            expected="a ViT of open_clip",
            fix="give another CLIP, such as ViT-B-16",
        )
    return visual


def tower_pixels(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Squash images to the image tower's square and normalise them.

    Args:
        images: (B, 3, H, W) uint8.
        preprocess: of the tower.

    Returns:
        (B, 3, S, S) float32.
    """
    shown = images.float()
    side = preprocess.image_size
    if shown.shape[-2:] != (side, side):
        mode = preprocess.interpolation
        shown = F.interpolate(shown, (side, side), mode=mode, antialias=True).clamp(0, 255)
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None]
        for values in (preprocess.mean, preprocess.std)
    )
    return (shown / 255 - mean) / std


def pool_by_masks(features: Tensor, masks: Tensor) -> Tensor:
    """Average features under masks, by the share of each cell that a mask covers.

    Args:
        features: (d, G, K), of the region that the masks show.
        masks: (n, H, W) bool, none of them empty.

    Returns:
        (n, d).
    """
    _, rows, columns = features.shape
    shares = F.adaptive_avg_pool2d(masks.float()[:, None], (rows, columns))[:, 0]
    return torch.einsum("dgk,ngk->nd", features, shares) / shares.sum((1, 2))[:, None]


def masked_crops(
    image: NDArray[np.uint8], masks: BoolMask, preprocess: Preprocess
) -> tuple[Tensor, Tensor]:
    """Cut regions by their boxes, with CLIP's mean colour around the masks (as OVSeg does).

    Args:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool, none of them empty.
        preprocess: of the tower.

    Returns:
        (n, 3, S, S) float32, squashed and normalised, 0 outside the masks, and the masks in that
        frame, (n, S, S) bool.
    """
    side = preprocess.image_size
    squash = replace(preprocess, resize_mode="squash")
    boxes = [bbox_from_mask(mask) for mask in masks]
    pixels = torch.from_numpy(squash([box.crop(image) for box in boxes]))
    shown = torch.zeros(len(masks), side, side, dtype=torch.bool)
    for row, mask, box in zip(shown, masks, boxes, strict=True):
        # Nearest neighbour, at the middles of the result's pixels.
        rows, columns = (
            ((np.arange(side) + 0.5) * length / side).astype(np.intp) for length in box.size
        )
        row[:] = torch.from_numpy(box.crop(mask)[np.ix_(rows, columns)])
    return pixels * shown[:, None], shown


class SamFeatures:
    """SAM's image embeddings averaged under masks.

    Args:
        backend: of the model.
    """

    def __init__(self, backend: EncoderBackend) -> None:
        self.backend = backend

    def pool(self, image: NDArray[np.uint8], masks: Tensor) -> Tensor:
        """Embed regions.

        Args:
            image: (H, W, 3) uint8.
            masks: (n, H, W) bool.

        Returns:
            (n, 256) float32 on the masks' device.
        """
        frame, input_size = to_frame(image, self.backend.image_size)
        embeddings = self.backend.encode(frame[None], np.array([input_size], np.int32))[0]
        # Cells that show the image; the last ones may show some padding.
        height, width = (-(-length // PATCH_SIZE) for length in input_size)
        shown = torch.from_numpy(embeddings[:, :height, :width]).to(masks.device)
        return pool_by_masks(shown, masks)


@dataclass(frozen=True)
class RegionBatch:
    """Windows and regions of them.

    Attributes:
        image: (B, 3, S, S) uint8.
        masks: (R, S, S) bool, none of them empty.
        owner: (R,) int64, the window of each, ascending.
        labels: (R,) int64, an index of the words; as many as there are words is the background.
    """

    image: Tensor
    masks: Tensor
    owner: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> RegionBatch:
        """The same batch on a device."""
        return RegionBatch(*(getattr(self, name).to(device) for name in vars(self)))

    def of_window(self, index: int) -> Tensor:
        """(n, S, S) bool, the masks of a window."""
        return self.masks[self.owner == index]

    def image_array(self, index: int) -> NDArray[np.uint8]:
        """(S, S, 3) uint8, a window."""
        return np.ascontiguousarray(self.image[index].permute(1, 2, 0).cpu().numpy())
