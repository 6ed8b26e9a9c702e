"""Composition of scenes: drawings over a background and over each other, decided by a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpcsam.errors import DataError
from training.data.sample import Sample
from training.data.vector_art.backgrounds import background
from training.data.vector_art.drawings import Drawing
from training.data.vector_art.rendering import Pose, render

__all__ = ["MIN_AREA", "Scene", "SceneConfig", "compose"]

MIN_AREA = 40
"""Pixels; an entity of which fewer are seen becomes background."""

TRIES = 60
"""Drawings tried before a collection is taken to hold nothing usable."""

Field = NDArray[np.float64]


@dataclass(frozen=True)
class SceneConfig:
    """Size and content of scenes.

    Attributes:
        size: side of the square scenes, pixels.
        parts: entities are parts of drawings instead of whole drawings; there are fewer and
            larger drawings then.
    """

    size: int = 256
    parts: bool = False


@dataclass(frozen=True)
class Scene:
    """A composed scene.

    Attributes:
        sample: image and entities, each of its drawing's category.
        drawings: what is shown, the lowest first.
        skipped: why other drawings could not be used; one line each.
        hidden: number of entities that became background, as fewer than `MIN_AREA` of their
            pixels are seen.
    """

    sample: Sample
    drawings: tuple[Drawing, ...]
    skipped: tuple[str, ...]
    hidden: int


def compose(
    drawings: Mapping[str, Sequence[Drawing]],
    seed: int | Sequence[int],
    config: SceneConfig = SceneConfig(),
    name: str = "",
) -> Scene:
    """Compose a scene of at least one entity.

    Categories are drawn in proportion to the square root of their number of drawings. A pixel
    belongs to the topmost drawing that covers at least half of it; shadows, blur, noise and a
    colour cast change the image alone.

    Args:
        drawings: to take, by category; no category is empty.
        seed: decides everything.
        config: size and content.
        name: of the sample; by default the seed.

    Raises:
        DataError: there are no drawings, or none is usable.
    """
    if not drawings:
        raise DataError.of(
            f"scene {name or seed}",
            got="no drawings",
            expected="at least one of its part and classes",
            fix="give a larger collection",
        )
    rng = np.random.default_rng(seed)
    size = config.size
    image = background(rng, size)
    instances = np.zeros((size, size), np.int32)
    categories: list[str] = []
    shown: list[Drawing] = []
    skipped: list[str] = []
    count = int(rng.integers(1, 5) if config.parts else rng.integers(3, 11))
    least, most = (0.45, 1.0) if config.parts else (0.2, 0.75)
    while len(shown) < count:
        pose = Pose(
            int(size * np.exp(rng.uniform(np.log(least), np.log(most)))),
            float(rng.normal(0, 25)),
            bool(rng.random() < 0.5),
        )
        drawing = _pick(drawings, rng)
        corner = (rng.uniform(0.1, 0.9, 2) * size - pose.side / 2).astype(int)
        try:
            rendered = render(drawing, pose, parts=config.parts)
        except DataError as error:
            skipped.append(str(error))
            if len(skipped) - len(shown) > TRIES:
                raise
            continue
        there, cut = _overlap(corner, pose.side, size)
        labels = rendered.labels[cut]
        if np.bincount(labels.ravel(), minlength=2)[1:].max() < MIN_AREA:
            skipped.append(f"{drawing.path}: fewer than {MIN_AREA} pixels within the scene")
            continue
        _paint(image, rendered.rgba, corner, rng)
        instances[there] = np.where(labels > 0, labels + len(categories), instances[there])
        categories += [drawing.category] * int(rendered.labels.max())
        shown.append(drawing)
    seen = np.bincount(instances.ravel(), minlength=len(categories) + 1)
    kept = np.flatnonzero(seen[1:] >= MIN_AREA) + 1
    renumbered = np.zeros(len(seen), np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    sample = Sample(
        name or f"vector-art-{seed}",
        _photographed(image, rng),
        renumbered[instances],
        tuple(categories[label - 1] for label in kept),
    )
    return Scene(sample, tuple(shown), tuple(skipped), len(categories) - len(kept))


def _pick(drawings: Mapping[str, Sequence[Drawing]], rng: np.random.Generator) -> Drawing:
    categories = sorted(drawings)
    weights = np.sqrt([len(drawings[category]) for category in categories])
    chosen = drawings[categories[rng.choice(len(categories), p=weights / weights.sum())]]
    return chosen[rng.integers(len(chosen))]


def _overlap(
    corner: NDArray[np.int64], side: int, size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where a square at (Y, X) lies in the scene, and which part of it that is."""
    start, stop = np.clip(corner, 0, size), np.clip(corner + side, 0, size)
    there = (slice(start[0], stop[0]), slice(start[1], stop[1]))
    first, last = start - corner, stop - corner
    return there, (slice(first[0], last[0]), slice(first[1], last[1]))


def _paint(
    image: Field, rgba: NDArray[np.uint8], corner: NDArray[np.int64], rng: np.random.Generator
) -> None:
    """Lay a drawing over the image, with a shadow or without, its colours varied."""
    size, side = len(image), len(rgba)
    if rng.random() < 0.4:
        shadow = np.zeros((size, size))
        offset = (rng.uniform(-0.04, 0.04, 2) * size).astype(int)
        there, cut = _overlap(corner + offset, side, size)
        shadow[there] = rgba[cut][:, :, 3] / 255
        shadow = ndimage.gaussian_filter(shadow, rng.uniform(1, 6), truncate=3)
        image *= 1 - rng.uniform(0.2, 0.6) * shadow[:, :, None]
    there, cut = _overlap(corner, side, size)
    gain = np.exp(rng.normal(0, 0.15, 3)) if rng.random() < 0.5 else np.ones(3)
    colours = (rgba[cut][:, :, :3] / 255 * gain).clip(0, 1)
    image[there] += rgba[cut][:, :, 3:] / 255 * (colours - image[there])


def _photographed(image: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, cast a colour over, add noise and round, each of random strength."""
    if rng.random() < 0.5:
        image = ndimage.gaussian_filter(image, (*[rng.uniform(0.3, 1.4)] * 2, 0))
    if rng.random() < 0.5:
        image = image * np.exp(rng.normal(0, 0.15, 3)) + rng.normal(0, 0.05)
    image = image.clip(0, 1) ** np.exp(rng.normal(0, 0.15))
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(0, 0.06), image.shape)
    pixels: NDArray[np.uint8] = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels
