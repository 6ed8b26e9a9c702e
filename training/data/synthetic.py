"""Synthetic scenes: textured random shapes on a textured ground, with exact instance labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.data.sample import Sample

__all__ = ["synthetic_scene", "texture"]

HARMONICS = 4


def synthetic_scene(seed: int, size: int = 256) -> Sample:
    """Draw a scene.

    Shapes are star-shaped (a radius given by a few random harmonics) and range from discs to
    lobed blobs; each has a colour, a texture and a soft edge of its own, and later ones occlude
    earlier ones. Blur and noise vary from scene to scene.

    Args:
        seed: decides everything; equal seeds give equal scenes.
        size: side of the square scene in pixels.
    """
    rng = np.random.default_rng(seed)
    image = texture(rng, size)
    instances = np.zeros((size, size), np.int32)
    radius_scale = np.exp(rng.uniform(np.log(7), np.log(45)))
    palette = rng.uniform(0, 1, (rng.integers(1, 4), 3))
    # Shapes of about 3 r² pixels: without overlap they would cover 10 to 50 % of the scene.
    count = int(np.clip(rng.uniform(0.1, 0.5) * size**2 / (3.0 * radius_scale**2), 2, 60))
    for index in range(1, count + 1):
        _draw_shape(rng, image, instances, index, radius_scale, palette)
    if rng.random() < 0.7:
        image = ndimage.gaussian_filter(image, (*[rng.uniform(0.3, 1.8)] * 2, 0))
    image += rng.normal(0, rng.uniform(0, 0.06), image.shape)
    low, high = image.min(), image.max()
    grey_levels = (image - low) / max(high - low, 1e-6) * 255
    return Sample(f"synthetic-{seed}", grey_levels.astype(np.uint8), instances)


def texture(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draw a colour field: one base colour, a smooth gradient and noise of a random grain.

    Returns:
        (size, size, 3) float64, mostly in [0, 1].
    """
    base = rng.uniform(0, 1, 3)
    field = np.zeros((size, size, 3)) + base
    for grain, strength in ((4, 0.25), (int(rng.integers(8, 64)), 0.15)):
        noise = rng.normal(0, rng.uniform(0, strength), (grain, grain, int(rng.choice([1, 3]))))
        field += ndimage.zoom(
            noise, (size / grain, size / grain, 1), order=1, grid_mode=True, mode="nearest"
        )[:size, :size]
    return field


def _draw_shape(
    rng: np.random.Generator,
    image: NDArray[np.float64],
    instances: NDArray[np.int32],
    index: int,
    radius_scale: float,
    palette: NDArray[np.float64],
) -> None:
    size = len(instances)
    centre_y, centre_x = rng.uniform(0, size, 2)
    radius = radius_scale * np.exp(rng.normal(0, 0.25))
    reach = int(2.2 * radius) + 2
    top, bottom = max(0, int(centre_y) - reach), min(size, int(centre_y) + reach)
    left, right = max(0, int(centre_x) - reach), min(size, int(centre_x) + reach)
    y, x = np.mgrid[top:bottom, left:right]
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.7)
    dy, dx = y - centre_y, x - centre_x
    along = (dx * np.cos(turn) + dy * np.sin(turn)) / stretch
    across = (dy * np.cos(turn) - dx * np.sin(turn)) * stretch**0.5
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    roughness = rng.uniform(0, 0.25)
    # From 2 on, as the first harmonic mostly shifts a shape instead of bending it.
    for harmonic in range(2, 2 + HARMONICS):
        outline += roughness / harmonic * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    inside = np.hypot(along, across) < radius * outline
    if not inside.any():
        return
    colour = palette[rng.integers(len(palette))] + rng.normal(0, 0.07, 3)
    shade = rng.normal(0, 0.1) * (1 - (np.hypot(along, across) / (radius * outline)).clip(0, 1))
    grain = rng.normal(0, rng.uniform(0, 0.08), inside.shape)
    fill = colour + (shade + ndimage.gaussian_filter(grain, rng.uniform(0.5, 2)))[:, :, None]
    opacity = rng.uniform(0.6, 1)
    patch = image[top:bottom, left:right]
    patch[inside] = opacity * fill[inside] + (1 - opacity) * patch[inside]
    instances[top:bottom, left:right][inside] = index
