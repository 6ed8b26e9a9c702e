"""Networks that label every pixel by its class: U-Net and DeepLabV3, trained from scratch.

They know no entities; touching ones are separated as in `benchmarks.comparison.methods.entities`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.budget import Budget, train_within
from benchmarks.comparison.methods.entities import (
    entities_of,
    found_in,
    split_touching,
    typical_radius,
)
from benchmarks.comparison.methods.interface import Fitted, Task
from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.predictor import encode_tiles
from cpcsam.contract import PIXEL_MEAN, PIXEL_STD
from training.bilevel.config import OptimizerConfig
from training.bilevel.losses import LossConfig, segmentation_loss
from training.data.augment import random_window
from training.data.prefetch import prefetch
from training.data.sample import Sample
from training.loop.distributed import training_device
from training.loop.optimizer import adamw, set_lr
from training.loop.precision import Precision, is_mixed
from training.loop.train_state import Counters

__all__ = ["SemanticBatch", "SemanticBatches", "SemanticMethod"]

ENDLESS: Final = 1_000_000_000
"""Steps that a budget always ends before."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class SemanticMethod:
    """A network of segmentation-models-pytorch.

    Attributes:
        label: for tables.
        architecture: of the decoder.
        encoder: a name of the library's encoders.
        encoder_weights: None trains from scratch; other values download weights.
        image_size: side S in pixels that windows and tiles are shown at.
        images: windows a step.
        optimizer: configuration of AdamW; `lr_capl` and `lr_points` are unused.
        precision: of training.
        workers: processes that prepare batches.
    """

    label: str
    architecture: Literal["unet", "deeplabv3"] = "unet"
    encoder: str = "resnet18"
    encoder_weights: str | None = None
    image_size: int = 256
    images: int = 4
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3))
    precision: Precision = "auto"
    workers: int = 0

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Train on the training and the support images."""
        device = training_device()
        torch.manual_seed(seed)
        mixed = is_mixed(self.precision, device)
        network = self.network(len(task.names)).to(device)
        recipe = self.optimizer
        optimizer = adamw(
            network.parameters(),
            lr=recipe.lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            decay_vectors=True,
        )
        counters = Counters()

        def train_step(batch: SemanticBatch, progress: float) -> dict[str, float]:
            set_lr(optimizer, recipe.lr * recipe.lr_factor(min(1.0, progress + 1e-3)))
            network.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                logits = network(_normalised(batch.image))
            optimizer.zero_grad(set_to_none=True)
            loss = segmentation_loss(logits, batch.masks, LossConfig()).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            counters.step += 1
            return {"loss": loss.item()}

        batches = SemanticBatches(task, self.image_size, self.images, seed)
        drawn = prefetch(batches, 0, self.workers, device)
        spent = train_within(budget, counters, drawn, train_step, device)
        graphs = _Probabilities(network.eval(), self.image_size, device)
        radius = typical_radius(task.support)

        def segment(sample: Sample) -> list[InstanceMask]:
            return _entities(probabilities_of(sample.image, graphs, task.tile), radius)

        return Fitted(segment, spent, sum(one.numel() for one in network.parameters()))

    def network(self, classes: int) -> nn.Module:
        """An untrained network, (B, 3, S, S) to (B, classes, S, S) logits."""
        import segmentation_models_pytorch as library  # it takes seconds to import

        network: nn.Module = library.create_model(
            self.architecture, self.encoder, self.encoder_weights, classes=classes
        )
        return network


@dataclass(frozen=True)
class SemanticBatch:
    """Windows and where each class is.

    Attributes:
        image: (B, 3, S, S) uint8.
        masks: (B, classes, S, S) bool.
    """

    image: Tensor
    masks: Tensor

    def to(self, device: torch.device) -> SemanticBatch:
        """The same batch on a device."""
        return SemanticBatch(self.image.to(device), self.masks.to(device))


class SemanticBatches:
    """Random windows of training and support images; batch i is decided by seed and i alone."""

    def __init__(self, task: Task, image_size: int, images: int, seed: int) -> None:
        self.task = task
        self.image_size = image_size
        self.images = images
        self.seed = seed

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> SemanticBatch:
        rng = np.random.default_rng((self.seed, index))
        # The support set, too: a pixel classifier cannot name a class that it never saw.
        count = len(self.task.train) + len(self.task.support)
        rows = [self._window(int(place), rng) for place in rng.integers(count, size=self.images)]
        return SemanticBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _window(self, place: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        train, support = self.task.train, self.task.support
        sample = train[place] if place < len(train) else support[place - len(train)]
        window = random_window(sample, self.image_size, self.task.scale, self.task.augment, rng)
        labels = window.instances.unique().tolist()
        masks = [
            torch.isin(
                window.instances,
                torch.tensor([one for one in labels if one and sample.class_of(one) == name]),
            )
            for name in self.task.names
        ]
        return window.image, torch.stack(masks)


class _Probabilities:
    """The network as `encode_tiles` calls a model: it embeds a tile as its classes' maps."""

    def __init__(self, network: nn.Module, image_size: int, device: torch.device) -> None:
        self.network = network
        self.image_size = image_size
        self.device = device

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], input_size: NDArray[np.int32]) -> Array:
        """(B, 3, S, S) to (B, classes, S, S) in [0, 1]."""
        logits = self.network(_normalised(torch.from_numpy(image).to(self.device)))
        result: Array = logits.float().sigmoid().cpu().numpy()
        return result


def probabilities_of(image: NDArray[np.uint8], graphs: _Probabilities, tile: int) -> Array:
    """Mean of the overlapping tiles' maps, (classes, H, W) in [0, 1]."""
    total: Array | None = None
    count = np.zeros(image.shape[:2], np.float32)
    for part, (height, width), maps in encode_tiles(
        image, tile, ClassSearchConfig().overlap, graphs
    ):
        shown = torch.from_numpy(maps[None, :, :height, :width])
        resized = F.interpolate(shown, part.size, mode="bilinear", antialias=True)[0].numpy()
        if total is None:
            total = np.zeros((len(maps), *count.shape), np.float32)
        total[:, part.top : part.bottom, part.left : part.right] += resized
        count[part.top : part.bottom, part.left : part.right] += 1
    assert total is not None
    # Tiles cover the image, so no count is 0.
    return total / count


def _entities(probabilities: Array, radius: float) -> list[InstanceMask]:
    """Entities of the likeliest class of each pixel, where it is likelier than not."""
    likeliest = np.where(probabilities.max(0) > 0.5, probabilities.argmax(0), -1)
    found = []
    for index, probability in enumerate(probabilities):
        for mask, (top, left) in entities_of(split_touching(likeliest == index, radius)):
            part = probability[top : top + mask.shape[0], left : left + mask.shape[1]]
            one = found_in(mask, index, float(part[mask].mean()), (top, left))
            found += [one] if one is not None else []
    return found


def _normalised(image: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values, device=image.device)[:, None, None]
        for values in (PIXEL_MEAN, PIXEL_STD)
    )
    return (image.float() - mean) / std
