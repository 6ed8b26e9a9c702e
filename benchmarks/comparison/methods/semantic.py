"""Networks that label every pixel by its class, trained from scratch: U-Net, DeepLabV3, SwinUnet.

They know no entities; touching ones are separated as in `benchmarks.comparison.methods.entities`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.budget import Budget
from benchmarks.comparison.methods.entities import (
    entities_of,
    found_in,
    split_touching,
    typical_radius,
)
from benchmarks.comparison.methods.fitting import (
    TaskBatches,
    fit_network,
    normalised,
    trained_parameters,
)
from benchmarks.comparison.methods.interface import Fitted, Segment, Task
from benchmarks.comparison.methods.swin_unet import SwinUnet
from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.predictor import encode_tiles
from cpcsam.automatic.tiling import tile_boxes
from training.bilevel.config import OptimizerConfig
from training.bilevel.losses import LossConfig, segmentation_loss
from training.data.augment import random_window
from training.data.sample import Sample
from training.loop.distributed import training_device
from training.loop.precision import Precision, is_mixed

__all__ = [
    "ClassMaps",
    "SemanticBatch",
    "SemanticBatches",
    "SemanticMethod",
    "class_map_segmenter",
    "probabilities_of",
]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class SemanticMethod:
    """A network of segmentation-models-pytorch, or SwinUnet.

    Attributes:
        label: for tables.
        architecture: of the decoder; `swin-unet` has its own encoder.
        encoder: a name of the library's encoders.
        encoder_weights: None trains from scratch; other values download weights.
        image_size: side S in pixels that windows and tiles are shown at.
        images: windows a step.
        optimizer: configuration of AdamW; `lr_capl` and `lr_points` are unused.
        precision: of training.
        workers: processes that prepare batches.
    """

    label: str
    architecture: Literal["unet", "deeplabv3", "swin-unet"] = "unet"
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

        def loss_of(batch: SemanticBatch) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                logits = network(normalised(batch.image))
            return segmentation_loss(logits, batch.masks, LossConfig()).mean()

        batches = SemanticBatches(task, self.image_size, self.images, seed)
        spent = fit_network(network, loss_of, batches, budget, self.optimizer, device, self.workers)
        graphs = ClassMaps(
            lambda images: network(normalised(images)).sigmoid(), self.image_size, device
        )
        return Fitted(class_map_segmenter(graphs, task), spent, trained_parameters(network))

    def network(self, classes: int) -> nn.Module:
        """An untrained network, (B, 3, S, S) to (B, classes, S, S) logits."""
        if self.architecture == "swin-unet":
            return SwinUnet(classes, self.image_size)
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


class SemanticBatches(TaskBatches[SemanticBatch]):
    """Random windows of training and support images."""

    def batch(self, rng: np.random.Generator) -> SemanticBatch:
        """Draw windows."""
        rows = [self._window(sample, rng) for sample in self.annotated(rng)]
        return SemanticBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
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


class ClassMaps:
    """A network as `encode_tiles` calls a model: it embeds a tile as its classes' maps.

    Args:
        probabilities: (B, 3, S, S) uint8 on the device to (B, classes, S, S) in [0, 1].
        image_size: S in pixels.
        device: of the computation.
    """

    def __init__(
        self, probabilities: Callable[[Tensor], Tensor], image_size: int, device: torch.device
    ) -> None:
        self.probabilities = probabilities
        self.image_size = image_size
        self.device = device

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], input_size: NDArray[np.int32]) -> Array:
        """(B, 3, S, S) to (B, classes, S, S) in [0, 1]."""
        maps = self.probabilities(torch.from_numpy(image).to(self.device))
        result: Array = maps.float().cpu().numpy()
        return result


def class_map_segmenter(graphs: ClassMaps, task: Task) -> Segment:
    """Find entities in class maps; touching ones are as large as the support set's."""
    radius = typical_radius(task.support)
    return lambda sample: _entities(probabilities_of(sample.image, graphs, task.tile), radius)


def probabilities_of(image: NDArray[np.uint8], graphs: ClassMaps, tile: int) -> Array:
    """Mean of the overlapping tiles' maps, (classes, H, W) in [0, 1]."""
    total: Array | None = None
    count = np.zeros(image.shape[:2], np.float32)
    tiles = tile_boxes((image.shape[0], image.shape[1]), tile, ClassSearchConfig().overlap)
    for part, (height, width), maps in encode_tiles(image, tiles, graphs):
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
