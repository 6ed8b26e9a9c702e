"""Batches and training within a budget as all networks that start from scratch share them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, Generic

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.budget import Budget, Spent, train_within
from benchmarks.comparison.methods.interface import Task
from cpcsam.contract import PIXEL_MEAN, PIXEL_STD
from training.bilevel.config import OptimizerConfig
from training.data.prefetch import Batch, Batches, prefetch
from training.data.sample import Sample
from training.loop.optimizer import adamw, set_lr
from training.loop.train_state import Counters

__all__ = ["ENDLESS", "TaskBatches", "fit_network", "normalised", "trained_parameters"]

ENDLESS: Final = 1_000_000_000
"""Steps that a budget always ends before."""


class TaskBatches(ABC, Generic[Batch]):
    """Batches of a task's annotated images; batch i is decided by seed and i alone.

    Args:
        task: whose images are used.
        image_size: side S in pixels that windows are shown at.
        count: windows, or episodes, of a batch.
        seed: of all draws.
    """

    def __init__(self, task: Task, image_size: int, count: int, seed: int) -> None:
        self.task = task
        self.image_size = image_size
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Batch:
        return self.batch(np.random.default_rng((self.seed, index)))

    @abstractmethod
    def batch(self, rng: np.random.Generator) -> Batch:
        """Draw a batch."""

    def annotated(self, rng: np.random.Generator) -> Iterator[Sample]:
        """Draw the images of a batch from the training and the support set.

        What names a class by its pixels alone has to learn it from the support set.
        """
        train, support = self.task.train, self.task.support
        for place in rng.integers(len(train) + len(support), size=self.count).tolist():
            yield train[place] if place < len(train) else support[place - len(train)]


def fit_network(
    network: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    batches: Batches[Batch],
    budget: Budget,
    recipe: OptimizerConfig,
    device: torch.device,
    workers: int = 0,
) -> Spent:
    """Train a network's parameters that need gradients by AdamW, clipped, with a cosine schedule.

    Args:
        network: on the device; it is left in evaluation mode.
        loss_of: scalar loss of a batch.
        batches: of training, on the CPU.
        budget: of training.
        recipe: of AdamW; `lr_capl` and `lr_points` are unused.
        device: of the computation.
        workers: processes that prepare batches.
    """
    trained = [one for one in network.parameters() if one.requires_grad]
    optimizer = adamw(
        trained,
        lr=recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        decay_vectors=True,
    )
    counters = Counters()

    def train_step(batch: Batch, progress: float) -> dict[str, float]:
        # At progress 0 the warm-up's factor is 0, and the first step would learn nothing.
        set_lr(optimizer, recipe.lr * recipe.lr_factor(min(1.0, progress + 1e-3)))
        network.train()
        loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        optimizer.step()
        counters.step += 1
        return {"loss": loss.item()}

    drawn = prefetch(batches, 0, workers, device)
    spent = train_within(budget, counters, drawn, train_step, device)
    network.eval()
    return spent


def trained_parameters(network: nn.Module) -> int:
    """Number of parameters that need gradients."""
    return sum(one.numel() for one in network.parameters() if one.requires_grad)


def normalised(image: Tensor) -> Tensor:
    """Images (..., 3, H, W) uint8 as float32 of zero mean and unit variance, SAM's constants."""
    mean, std = (
        torch.tensor(values, device=image.device)[:, None, None]
        for values in (PIXEL_MEAN, PIXEL_STD)
    )
    return (image.float() - mean) / std
