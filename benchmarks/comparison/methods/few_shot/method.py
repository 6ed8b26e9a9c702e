"""Few-shot networks: they compare an image with a class's support images, and learn it in episodes.

Trained on base classes only; the support set's classes are shown to them at the test. They know no
entities: touching ones are separated as in `benchmarks.comparison.methods.entities`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from benchmarks.budget import Budget
from benchmarks.comparison.methods.few_shot.episodes import (
    EpisodeBatch,
    EpisodeBatches,
    shots_of,
)
from benchmarks.comparison.methods.few_shot.hsnet import HsNet
from benchmarks.comparison.methods.few_shot.network import FewShotNetwork
from benchmarks.comparison.methods.few_shot.ssp import Ssp
from benchmarks.comparison.methods.fitting import fit_network, trained_parameters
from benchmarks.comparison.methods.interface import Fitted, Task
from benchmarks.comparison.methods.semantic import ClassMaps, class_map_segmenter
from training.bilevel.config import OptimizerConfig
from training.loop.distributed import training_device
from training.loop.precision import Precision, is_mixed

__all__ = ["FewShotMethod"]


@dataclass(frozen=True)
class FewShotMethod:
    """A network trained in episodes of one support image, tested with several.

    The encoder is a ResNet of segmentation-models-pytorch, as the U-Net's. The publications start
    from ImageNet's weights, which cannot be assumed here: without weights it learns in the episodes
    as well.

    Attributes:
        label: for tables.
        architecture: of what compares.
        encoder: a name of the library's ResNets.
        encoder_weights: None trains from scratch; other values download weights, which the
            publications freeze: HSNet all of them, SSP the first stage's.
        image_size: side S in pixels that windows and tiles are shown at. Recipes do not change it:
            HSNet compares all pairs of cells, (S / 8)^4 of them.
        episodes: a step.
        shots: support images of a class at the test, at most.
        optimizer: configuration of AdamW; `lr_capl` and `lr_points` are unused.
        precision: of training.
        workers: processes that prepare batches.
    """

    label: str
    architecture: Literal["hsnet", "ssp"]
    encoder: str = "resnet18"
    encoder_weights: str | None = None
    image_size: int = 256
    episodes: int = 2
    shots: int = 5
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3))
    precision: Precision = "auto"
    workers: int = 0

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Train on episodes of the training images, then look at the support set's."""
        device = training_device()
        torch.manual_seed(seed)
        mixed = is_mixed(self.precision, device)
        network = self.network().to(device)

        def loss_of(batch: EpisodeBatch) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                return network.loss(**vars(batch))

        batches = EpisodeBatches(task, self.image_size, self.episodes, seed)
        spent = fit_network(network, loss_of, batches, budget, self.optimizer, device, self.workers)
        with torch.no_grad():
            shots = [shots_of(task, name, self.image_size, self.shots, seed) for name in task.names]
            memories = [
                network.remember(one.images.to(device), one.masks.to(device)) for one in shots
            ]
        graphs = ClassMaps(
            lambda images: network.probabilities(images, memories), self.image_size, device
        )
        return Fitted(class_map_segmenter(graphs, task), spent, trained_parameters(network))

    def network(self) -> FewShotNetwork:
        """An untrained network."""
        if self.architecture == "hsnet":
            return HsNet(self.encoder, self.encoder_weights)
        return Ssp(self.encoder, self.encoder_weights)
