"""Augmentation: random windows of a sample, resized to the encoder's size, with colour jitter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cpcsam.checks import require_range
from cpcsam.scale import Scale
from cpcsam.transforms import resize_image
from training.data.sample import Sample, entity_labels

__all__ = [
    "AugmentConfig",
    "Window",
    "padded",
    "random_window",
    "whole_window",
    "window_with_entities",
]

LUMA = (0.299, 0.587, 0.114)
PADDING = (124, 116, 104)
"""Beyond an image: SAM's mean colour, which normalisation turns into the zeros that serving pads
with."""


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of the augmentation.

    Attributes:
        rotate: turn by any angle instead of by quarter turns only.
        colour: strength in [0, 1] of brightness, contrast, channel and noise changes.
        invert: probability of inverting grey levels.
        grey: probability of dropping colour.
    """

    rotate: bool = True
    colour: float = 1.0
    invert: float = 0.2
    grey: float = 0.2

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1]."""
        for name in ("colour", "invert", "grey"):
            require_range(f"batch.augment.{name}", getattr(self, name), 0, 1)


@dataclass(frozen=True)
class Window:
    """A window at the encoder's size.

    Attributes:
        image: (3, S, S) uint8.
        instances: (S, S) int32, labels as in the sample.
        scale: shown pixels per original pixel.
    """

    image: Tensor
    instances: Tensor
    scale: float


def random_window(
    sample: Sample,
    image_size: int,
    scale: Scale,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Window:
    """Crop, rotate, flip, resize and recolour a random window.

    Args:
        sample: image to cut from.
        image_size: S of the result.
        scale: of the window; its side is log-uniform over the spread. Along an axis of the image
            that is shorter, the window shows all of it.
        config: strengths.
        rng: decides everything.
    """
    height, width = sample.instances.shape
    middle, spread = np.log(scale.side((height, width))), np.log(scale.spread)
    side = float(np.exp(rng.uniform(middle - spread, middle + spread)))
    # Inside before rotation; where a rotation leaves the image, `_cut` reflects.
    centre_y, centre_x = (
        rng.uniform(min(side / 2, axis - side / 2), max(side / 2, axis - side / 2))
        for axis in (height, width)
    )
    turn = rng.integers(4) * np.pi / 2
    if config.rotate and rng.random() < 0.5:
        turn += rng.uniform(-np.pi / 4, np.pi / 4)
    # With quarter turns, one mirror axis gives all eight symmetries of the square.
    mirror = rng.choice([-1.0, 1.0])
    stretch = float(np.exp(rng.normal(0, 0.08)))
    window = _cut(sample, image_size, side, (centre_y, centre_x), turn, mirror, stretch)
    return Window(_recolour(window.image, config, rng), window.instances, window.scale)


def window_with_entities(
    sample: Sample,
    image_size: int,
    scale: Scale,
    config: AugmentConfig,
    min_area: int,
    rng: np.random.Generator,
) -> tuple[Window, NDArray[np.int64]]:
    """Cut a random window and list its entities of at least `min_area` shown pixels.

    Returns:
        The window and the labels of those entities, possibly none.
    """
    window = random_window(sample, image_size, scale, config, rng)
    return window, entity_labels(window.instances.numpy(), min_area)


def whole_window(sample: Sample, image_size: int) -> Window:
    """Resize a sample to image_size, padded on the right and bottom, without augmentation.

    A larger image shows the pixels that serving shows of it.
    """
    side = max(sample.instances.shape)
    window = _cut(sample, image_size, side, (side / 2, side / 2), 0.0, 1.0, 1.0)
    if side <= image_size:
        return window
    served = torch.from_numpy(resize_image(sample.image, image_size).transpose(2, 0, 1))
    image = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(
        1, *window.image.shape[1:]
    )
    image[:, : served.shape[1], : served.shape[2]] = served
    return replace(window, image=image)


def padded(sample: Sample, side: int) -> Sample:
    """Pad a sample on the right and bottom, so that no axis is shorter than `side`."""
    height, width = sample.instances.shape
    below = ((0, max(0, side - height)), (0, max(0, side - width)))
    channels = [np.pad(sample.image[..., c], below, constant_values=PADDING[c]) for c in range(3)]
    return replace(sample, image=np.stack(channels, -1), instances=np.pad(sample.instances, below))


def _reduced(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Reduce an image, (H, W, 3), by a factor as serving does, in place of sampling its pixels."""
    if factor <= 1:
        return image
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _cut(
    sample: Sample,
    image_size: int,
    side: float,
    centre: tuple[float, float],
    turn: float,
    mirror: float,
    stretch: float,
) -> Window:
    height, width = sample.instances.shape
    cos, sin = np.cos(turn), np.sin(turn)
    # affine_grid spans an image from -1 to 1, so half a window's side is side / width there.
    half_x, half_y = side * stretch / width, side / stretch / height
    theta = torch.tensor(
        [
            [half_x * cos * mirror, -half_x * sin, 2 * centre[1] / width - 1],
            [half_y * sin * mirror, half_y * cos, 2 * centre[0] / height - 1],
        ],
        dtype=torch.float32,
    )
    grid = F.affine_grid(theta[None], [1, 1, image_size, image_size], align_corners=False)
    pixels = _reduced(sample.image, side / image_size)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float()
    # The mean colour becomes zero, as what lies beyond the image is filled with zeros.
    image -= torch.tensor(PADDING, dtype=torch.float32)[:, None, None]
    # grid_sample takes no integers; float32 holds labels up to 2^24 exactly.
    labels = torch.from_numpy(sample.instances)[None, None].float()
    # Corners that rotation leaves empty are reflected; a window larger than its image is padded.
    padding = "reflection" if side <= min(height, width) else "zeros"
    shown = F.grid_sample(image, grid, padding_mode=padding, align_corners=False)
    shown_labels = F.grid_sample(
        labels, grid, mode="nearest", padding_mode=padding, align_corners=False
    )
    shown = (shown[0] + torch.tensor(PADDING)[:, None, None]).round().clamp(0, 255).byte()
    return Window(shown, shown_labels[0, 0].int(), image_size / side)


def _recolour(image: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    x = image.float() / 255
    strength = config.colour
    if rng.random() < config.grey:
        x = (x * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True).expand(3, -1, -1)
    if rng.random() < config.invert:
        x = 1 - x
    gamma = float(np.exp(rng.normal(0, 0.25 * strength)))
    contrast = float(np.exp(rng.normal(0, 0.25 * strength)))
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.1 * strength, (3, 1, 1)))).float()
    # Rounding may leave [0, 1] by a hair, and a power of a negative number is NaN.
    x = (x.clamp(0, 1) ** gamma - 0.5) * contrast * gain + 0.5
    x = x + float(rng.normal(0, 0.08 * strength))
    if rng.random() < 0.3 * strength:
        x = x + torch.from_numpy(rng.normal(0, rng.uniform(0, 0.05), x.shape)).float()
    return (x.clamp(0, 1) * 255).round().byte()
