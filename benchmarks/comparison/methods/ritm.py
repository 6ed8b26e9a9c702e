"""RITM: interactive segmentation by clicks and the previous mask, trained iteratively.

It finds no entities by itself: in a comparison an annotator clicks each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.budget import Budget, Spent, train_within
from benchmarks.comparison.methods.clicks import (
    MAX_FURTHER_CLICKS,
    Click,
    click_through,
    first_clicks,
    further_click,
)
from benchmarks.comparison.methods.entities import found_in, owned_tiles
from benchmarks.comparison.methods.fitting import TaskBatches, trained_parameters
from benchmarks.comparison.methods.interface import Fitted, Task
from benchmarks.comparison.methods.ritm_network import (
    RitmNetwork,
    disks_of,
    normalised_focal_loss,
)
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.errors import DataError
from cpcsam.transforms import resize_coords, to_frame
from training.data.augment import PADDING, window_with_entities
from training.data.prefetch import prefetch
from training.data.sample import Sample
from training.loop.distributed import training_device
from training.loop.optimizer import set_lr
from training.loop.precision import Precision, is_mixed
from training.loop.train_state import Counters

__all__ = ["THRESHOLD", "RitmBatch", "RitmBatches", "RitmMethod", "RitmPredictor"]

THRESHOLD: Final = 0.49
"""Of probabilities, as published."""
LEARNING_RATE: Final = 5e-4
MILESTONES: Final = (200 / 230, 220 / 230)
"""Shares of the training after which the learning rate falls to a tenth."""
MIN_AREA: Final = 40
"""Entities of fewer shown pixels are not trained on, as SAM's methods do."""
ATTEMPTS: Final = 1000


@dataclass(frozen=True)
class RitmMethod:
    """RITM with a small backbone, trained from scratch.

    Attributes:
        label: for tables.
        clicks: of the annotator on each entity of a test image.
        encoder: a ResNet of segmentation-models-pytorch.
        encoder_weights: None trains from scratch; other values download weights.
        image_size: side S in pixels that windows and tiles are shown at.
        images: windows a step, of which one entity each is clicked.
        precision: of training.
        workers: processes that prepare batches.
    """

    label: str
    clicks: int = 1
    encoder: str = "resnet18"
    encoder_weights: str | None = None
    image_size: int = 256
    images: int = 4
    precision: Precision = "auto"
    workers: int = 0

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Train on the training images."""
        predictor, spent, parameters = self.train(task, budget, seed)

        def segment(sample: Sample) -> list[InstanceMask]:
            found = []
            for part, labels in owned_tiles(sample, task.names, task.tile):
                predictor.set_image(part.crop(sample.image))
                for label in labels:
                    truth = part.crop(sample.instances) == label
                    mask = click_through(predictor.predict, truth, self.clicks).mask
                    name = task.names.index(sample.class_of(label))
                    score = predictor.confidence(mask)
                    one = found_in(mask, name, score, (part.top, part.left))
                    found += [one] if one is not None else []
            return found

        return Fitted(segment, spent, parameters)

    def train(self, task: Task, budget: Budget, seed: int) -> tuple[RitmPredictor, Spent, int]:
        """Train iteratively, on further clicks that answer to the network's own masks.

        Returns:
            What the network predicts by, the used budget and the number of parameters.
        """
        device = training_device()
        torch.manual_seed(seed)
        mixed = is_mixed(self.precision, device)
        network = RitmNetwork(self.encoder, self.encoder_weights).to(device)
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        counters = Counters()

        def train_step(batch: RitmBatch, progress: float) -> dict[str, float]:
            passed = sum(progress >= milestone for milestone in MILESTONES)
            set_lr(optimizer, LEARNING_RATE * 0.1**passed)
            rng = np.random.default_rng((seed, counters.step, 1))
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                previous, disks = iterated(network, batch, rng)
                network.train()
                logits = network(batch.image, previous, disks)
            optimizer.zero_grad(set_to_none=True)
            loss = normalised_focal_loss(logits, batch.masks)
            loss.backward()
            optimizer.step()
            counters.step += 1
            return {"loss": loss.item()}

        batches = RitmBatches(task, self.image_size, self.images, seed)
        drawn = prefetch(batches, 0, self.workers, device)
        spent = train_within(budget, counters, drawn, train_step, device)
        predictor = RitmPredictor(network, self.image_size, device)
        return predictor, spent, trained_parameters(network)


@torch.no_grad()
def iterated(
    network: RitmNetwork, batch: RitmBatch, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Click from 0 to `MAX_FURTHER_CLICKS` times where the network errs.

    Args:
        network: in any mode; it is left in evaluation mode.
        batch: with its first clicks.
        rng: decides number and places of the clicks.

    Returns:
        The last answer, (B, 1, S, S) probabilities, zeros without one, and all clicks' disks.
    """
    network.eval()
    clicks, side = [list(of_image) for of_image in batch.clicks], batch.image.shape[-1]
    previous = torch.zeros(len(clicks), 1, side, side, device=batch.image.device)
    truths = batch.masks[:, 0].cpu().numpy()
    for _ in range(int(rng.integers(MAX_FURTHER_CLICKS + 1))):
        disks = disks_of(clicks, side, batch.image.device)
        previous = network(batch.image, previous, disks).float().sigmoid()
        for of_image, truth, answer in zip(clicks, truths, previous.cpu().numpy(), strict=True):
            click = further_click(truth, answer[0], THRESHOLD, rng)
            of_image += [] if click is None else [click]
    return previous, disks_of(clicks, side, batch.image.device)


@dataclass(frozen=True)
class RitmBatch:
    """Windows with one clicked entity each.

    Attributes:
        image: (B, 3, S, S) uint8.
        masks: (B, 1, S, S) bool.
        clicks: the first clicks of each.
    """

    image: Tensor
    masks: Tensor
    clicks: tuple[tuple[Click, ...], ...]

    def to(self, device: torch.device) -> RitmBatch:
        """The same batch on a device."""
        return replace(self, image=self.image.to(device), masks=self.masks.to(device))


class RitmBatches(TaskBatches[RitmBatch]):
    """Random windows of training images."""

    def batch(self, rng: np.random.Generator) -> RitmBatch:
        """Draw windows with a clicked entity each."""
        rows = [self._window(rng) for _ in range(self.count)]
        image, masks, clicks = zip(*rows, strict=True)
        return RitmBatch(torch.stack(image), torch.stack(masks), clicks)

    def _window(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, tuple[Click, ...]]:
        """A window, one of its entities and that entity's first clicks."""
        task = self.task
        for _ in range(ATTEMPTS):
            sample = task.train[int(rng.integers(len(task.train)))]
            window, labels = window_with_entities(
                sample, self.image_size, task.scale, task.augment, MIN_AREA, rng
            )
            if len(labels):
                mask = window.instances == int(rng.choice(labels))
                truth = mask.numpy()
                others = (window.instances > 0).numpy() & ~truth
                return window.image, mask[None], tuple(first_clicks(truth, others, rng))
        raise DataError.of(
            "training data",
            got=f"no entity of {MIN_AREA} shown pixels in {ATTEMPTS} windows",
            expected="entities large enough to be clicked",
            fix="give other images, or a smaller tile to show entities larger",
        )


class RitmPredictor:
    """The trained network on one image; clicks of one entity are answered one after another.

    Attributes:
        network: in evaluation mode.
    """

    def __init__(self, network: RitmNetwork, image_size: int, device: torch.device) -> None:
        self.network = network.eval()
        self._image_size = image_size
        self._device = device

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Show an image, (H, W, 3) uint8."""
        frame, (height, width) = to_frame(image, self._image_size)
        # Training windows show this colour beyond an image.
        frame[:, height:] = frame[:, :, width:] = np.array(PADDING)[:, None, None]
        self._input_size = height, width
        self._size = (image.shape[0], image.shape[1])
        self._frame = torch.from_numpy(frame[None]).to(self._device)

    @torch.no_grad()
    def predict(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        """Return the mask of all clicks so far, (H, W) bool; a single click begins an entity."""
        if len(clicks) == 1:
            self._previous = torch.zeros_like(self._frame[:, :1], dtype=torch.float32)
        coords: NDArray[Any] = np.array([(click.x, click.y) for click in clicks])
        shown = resize_coords(coords, self._size, self._image_size)
        moved = [
            replace(click, x=float(x), y=float(y))
            for click, (x, y) in zip(clicks, shown, strict=True)
        ]
        disks = disks_of([moved], self._image_size, self._device)
        self._previous = self.network(self._frame, self._previous, disks).float().sigmoid()
        height, width = self._input_size
        self._probability = F.interpolate(
            self._previous[..., :height, :width], self._size, mode="bilinear"
        )[0, 0]
        mask: NDArray[np.bool_] = (self._probability > THRESHOLD).cpu().numpy()
        return mask

    def confidence(self, mask: NDArray[np.bool_]) -> float:
        """Mean probability of the last answer on a mask; 0 if it is empty."""
        return float(self._probability.cpu().numpy()[mask].mean()) if mask.any() else 0.0
