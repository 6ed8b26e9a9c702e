"""A synthetic multi-entity dataset with a known confounder.

Each of 19 classes has a shape and a filling texture of its own. In scenes of base classes every
entity lies on the background texture of its class, so the background foretells the class; in
scenes of target classes the background under an entity is any of the base classes', so what it
foretold no longer holds, and shapes and fillings are new as well. Base : target is 13 : 6 (§3.2).
Methods are developed on six further classes, which no test shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.data.sample import Sample

__all__ = [
    "BASE_CLASSES",
    "CLASSES",
    "DEVELOPMENT_CLASSES",
    "TARGET_CLASSES",
    "EntityClass",
    "Texture",
    "scene",
]

SIDE = 256
CELLS = 3
CLASSES_SEED = 2026
DEVELOPMENT_SEED = 4711

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Texture:
    """Two colours that alternate in waves, with grain.

    Attributes:
        colours: two RGB colours in [0, 1].
        wavelength: pixels.
        angle: of the waves, radians.
        grain: standard deviation of the noise.
    """

    colours: tuple[tuple[float, ...], tuple[float, ...]]
    wavelength: float
    angle: float
    grain: float

    def paint(self, where: NDArray[np.bool_], rng: np.random.Generator) -> Field:
        """Fill the N pixels of a mask, (SIDE, SIDE), at a random phase; return (N, 3)."""
        y, x = np.nonzero(where)
        phase = (x * np.cos(self.angle) + y * np.sin(self.angle)) / self.wavelength + rng.random()
        share = (0.5 + 0.5 * np.sin(2 * np.pi * phase))[:, None]
        first, second = np.array(self.colours)
        grain = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 0.7)[where][:, None]
        field: Field = share * first + (1 - share) * second + self.grain * grain
        return field


@dataclass(frozen=True)
class EntityClass:
    """A shape, its filling and the background that base scenes tie to it.

    Attributes:
        lobes: of the outline.
        depth: of the lobes, as a share of the radius.
        stretch: length over width.
        filling: texture of the entity.
        background: texture around it; None for target classes.
    """

    lobes: int
    depth: float
    stretch: float
    filling: Texture
    background: Texture | None


def _texture(rng: np.random.Generator) -> Texture:
    first = rng.uniform(0.1, 0.9, 3)
    second = (first + rng.normal(0, 0.15, 3)).clip(0, 1)
    colours = (tuple(first.tolist()), tuple(second.tolist()))
    return Texture(
        colours, float(rng.uniform(5, 24)), float(rng.uniform(0, np.pi)), float(rng.uniform(0, 0.1))
    )


def _classes(seed: int, base: int, count: int) -> tuple[EntityClass, ...]:
    """Draw classes, of which the first are base classes."""
    rng = np.random.default_rng(seed)
    return tuple(
        EntityClass(
            lobes=int(rng.integers(2, 7)),
            depth=float(rng.uniform(0, 0.3)),
            stretch=float(rng.uniform(1, 1.8)),
            filling=_texture(rng),
            background=_texture(rng) if index < base else None,
        )
        for index in range(count)
    )


CLASSES = _classes(CLASSES_SEED, 13, 19)
BASE_CLASSES = CLASSES[:13]
TARGET_CLASSES = CLASSES[13:]
DEVELOPMENT_CLASSES = _classes(DEVELOPMENT_SEED, 0, 6)


def scene(seed: int, *, target: bool, targets: tuple[EntityClass, ...] = TARGET_CLASSES) -> Sample:
    """Draw nine entities of random classes, one in each cell of a jittered 3 × 3 grid.

    Args:
        seed: decides everything.
        target: draw target classes, on any of the base classes' backgrounds.
        targets: those classes.
    """
    rng = np.random.default_rng((seed, target))
    classes = targets if target else BASE_CLASSES
    pitch = SIDE / CELLS
    grid = np.moveaxis(np.mgrid[:CELLS, :CELLS], 0, -1).reshape(-1, 2)
    centres = (grid + 0.5) * pitch + rng.uniform(-0.16, 0.16, grid.shape) * pitch
    y, x = np.mgrid[:SIDE, :SIDE]
    # (9, SIDE, SIDE)
    distances = np.hypot(y - centres[:, :1, None], x - centres[:, 1:, None])
    cell = distances.argmin(0)
    image = np.zeros((SIDE, SIDE, 3))
    instances = np.zeros((SIDE, SIDE), np.int32)
    for index, centre in enumerate(centres):
        kind = classes[rng.integers(len(classes))]
        other = BASE_CLASSES[rng.integers(len(BASE_CLASSES))]
        background = kind.background or other.background
        assert background is not None
        here = cell == index
        image[here] = background.paint(here, rng)
        # Clipped to the cell, so that no entity covers its neighbour.
        inside = _outline(kind, centre, pitch, rng) & here
        image[inside] = kind.filling.paint(inside, rng)
        instances[inside] = index + 1
    image = ndimage.gaussian_filter(image, (rng.uniform(0.4, 1.0),) * 2 + (0,))
    pixels = (image + rng.normal(0, 0.02, image.shape)).clip(0, 1) * 255
    name = f"{'target' if target else 'base'}-{seed}"
    return Sample(name, pixels.round().astype(np.uint8), instances)


def _outline(
    kind: EntityClass, centre: Field, pitch: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE]
    dy, dx = y - centre[0], x - centre[1]
    turn, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.16, 0.3) * pitch
    along = (dx * np.cos(turn) + dy * np.sin(turn)) / kind.stretch**0.5
    across = (dy * np.cos(turn) - dx * np.sin(turn)) * kind.stretch**0.5
    outline = 1 + kind.depth * np.cos(kind.lobes * np.arctan2(across, along))
    inside: NDArray[np.bool_] = np.hypot(along, across) < radius * outline
    return inside
