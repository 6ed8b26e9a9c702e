"""Backgrounds of scenes: textures, gradients and cuts from scikit-image's photographs."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data

from training.data.synthetic import texture

__all__ = ["background"]

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "moon", "rocket",
)  # fmt: skip
"""Those that scikit-image's wheel holds, so nothing is downloaded."""

Field = NDArray[np.float64]


def background(rng: np.random.Generator, size: int) -> Field:
    """Draw a background, (size, size, 3) in [0, 1], of a random kind."""
    kinds = (texture, _gradient, _photograph)
    return kinds[rng.integers(len(kinds))](rng, size).clip(0, 1)


def _gradient(rng: np.random.Generator, size: int) -> Field:
    """A gradient of two or three colours, linear or radial."""
    y, x = np.mgrid[:size, :size] / size - rng.uniform(0.2, 0.8, (2, 1, 1))
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
    else:
        along = np.hypot(x, y)
    along = (along - along.min()) / np.ptp(along)
    colours = rng.uniform(0, 1, (int(rng.integers(2, 4)), 3))
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(along, stops, channel) for channel in colours.T], axis=-1)


def _photograph(rng: np.random.Generator, size: int) -> Field:
    """A mirrored or turned square of a photograph, at a random scale and brightness."""
    image = _image(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    side = int(rng.integers(min(image.shape[:2]) // 3, min(image.shape[:2]) + 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    square = np.rot90(image[top : top + side, left : left + side], rng.integers(4))
    if rng.random() < 0.5:
        square = square[:, ::-1]
    zoom = (size / side, size / side, 1)
    shown = ndimage.zoom(square / 255, zoom, order=1, grid_mode=True, mode="nearest")
    field: Field = shown[:size, :size] ** np.exp(rng.normal(0, 0.3))
    return field


@functools.lru_cache(maxsize=len(PHOTOGRAPHS))
def _image(name: str) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = getattr(data, name)()
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
