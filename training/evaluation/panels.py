"""Image panels for reports: image, annotation and prediction side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.drawing import color_of, contour
from training.data.sample import Sample
from training.evaluation.class_scores import foreground_of

__all__ = ["PLACES", "draw_panel", "panels_of", "save_panels"]

PLACES: Final = ("worst", "median", "best")
SIDE: Final = 256
"""Pixels of a picture's longer side."""
GAP: Final = 6
QUALITY: Final = 88
FILL: Final = 0.35


def panels_of(
    samples: Sequence[Sample],
    per_image: Sequence[Mapping[str, Any]],
    segment: Callable[[Sample], list[InstanceMask]],
    names: Sequence[str],
) -> dict[str, tuple[str, Image.Image]]:
    """Segment and draw the images with the lowest, median and highest Dice.

    Args:
        samples: the images that were scored.
        per_image: as `score_segmentation` gives it.
        segment: what was scored.
        names: its classes.

    Returns:
        Caption and picture of each of `PLACES`.
    """
    dice: dict[str, list[float]] = {}
    for row in per_image:
        dice.setdefault(row["name"], []).append(row["dice"])
    means = {name: float(np.mean(values)) for name, values in dice.items()}
    ranked = sorted(means, key=lambda name: means[name])
    chosen = dict(zip(PLACES, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True))
    found = {sample.name: sample for sample in samples if sample.name in chosen.values()}
    return {
        place: (
            f"{place}: {name}, Dice {100 * means[name]:.1f}",
            draw_panel(found[name], segment(found[name]), names),
        )
        for place, name in chosen.items()
    }


def save_panels(panels: Mapping[str, tuple[str, Image.Image]], folder: Path) -> dict[str, str]:
    """Write `<place>.jpg` of each panel, atomically; return the captions by place."""
    for place, (_, picture) in panels.items():
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY)
        write_atomic(folder / f"{place}.jpg", buffer.getvalue())
    return {place: caption for place, (caption, _) in panels.items()}


def draw_panel(sample: Sample, found: Sequence[InstanceMask], names: Sequence[str]) -> Image.Image:
    """Draw image, annotation and prediction side by side; classes have colours, entities outlines.

    Args:
        sample: the annotated image.
        found: the predicted entities.
        names: the classes, which `class_index` counts; others are not drawn.
    """
    size = sample.instances.shape
    truth = [
        (sample.instances == label, names.index(name))
        for label in np.unique(sample.instances[sample.instances > 0])
        if (name := sample.class_of(int(label))) in names
    ]
    predicted = [(foreground_of([mask], size), mask.class_index) for mask in found]
    pictures = [_shrunk(picture) for picture in (sample.image, _drawn(sample, truth))]
    pictures.append(_shrunk(_drawn(sample, predicted)))
    width, height = pictures[0].size
    panel = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for index, picture in enumerate(pictures):
        panel.paste(picture, (index * (width + GAP), 0))
    return panel


def _drawn(sample: Sample, masks: Sequence[tuple[NDArray[np.bool_], int]]) -> NDArray[np.uint8]:
    """Draw masks on the image, filled and outlined in their classes' colours."""
    canvas = sample.image.astype(np.float32)
    # Outlines must survive the reduction to SIDE pixels.
    width = max(1, round(max(sample.instances.shape) / SIDE))
    for mask, class_index in masks:
        color = np.array(color_of(class_index), np.float32)
        canvas[mask] += FILL * (color - canvas[mask])
        canvas[contour(mask, width)] = color
    drawn: NDArray[np.uint8] = canvas.round().astype(np.uint8)
    return drawn


def _shrunk(picture: NDArray[np.uint8]) -> Image.Image:
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
