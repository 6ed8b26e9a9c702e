"""Contact sheet of samples, each with and without its entities coloured by class."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.data.sample import Sample

__all__ = ["contact_sheet", "shown_entities"]

SIDE = 240
CAPTION = 32
COLUMNS = 3
OPACITY = 0.5
GOLDEN = 0.618034


def contact_sheet(samples: Iterable[Sample], classes: Sequence[str]) -> Image.Image:
    """Draw samples in rows of three, each with its name and classes below.

    Args:
        samples: at least one; read one by one.
        classes: all classes; they decide the colours.
    """
    tiles = [_tile(sample, classes) for sample in samples]
    width, height = tiles[0].size
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (width * min(COLUMNS, len(tiles)), height * rows), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (width * (index % COLUMNS), height * (index // COLUMNS)))
    return sheet


def shown_entities(sample: Sample, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Colour entities by class and outline each in white, (H, W, 3) uint8."""
    rank = {name: index for index, name in enumerate(classes)}
    labels = sample.instances
    colours = np.zeros((int(labels.max(initial=0)) + 1, 3))
    for label in np.unique(labels):
        if label:
            # Multiples of the golden ratio spread hues evenly, however many classes there are.
            hue = rank.get(sample.class_of(int(label)), 0) * GOLDEN % 1
            colours[label] = np.multiply(colorsys.hsv_to_rgb(hue, 0.9, 1), 255)
    inside = (labels > 0)[:, :, None]
    mixed = np.where(inside, (1 - OPACITY) * sample.image + OPACITY * colours[labels], sample.image)
    outline = np.zeros(labels.shape, bool)
    outline[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    outline[1:] |= labels[1:] != labels[:-1]
    mixed[outline] = 255
    return mixed.round().astype(np.uint8)


def _tile(sample: Sample, classes: Sequence[str]) -> Image.Image:
    tile = Image.new("RGB", (2 * SIDE + 8, SIDE + CAPTION), "white")
    for left, pixels in ((0, sample.image), (SIDE, shown_entities(sample, classes))):
        picture = Image.fromarray(pixels)
        scale = SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        tile.paste(picture.resize(size), (left, 0))
    seen = {sample.class_of(int(label)) for label in np.unique(sample.instances) if label}
    named = ", ".join(name for name in classes if name in seen) or "no entity"
    draw = ImageDraw.Draw(tile)
    draw.text((2, SIDE + 2), _shortened(sample.name), fill="black")
    draw.text((2, SIDE + 16), _shortened(named), fill="black")
    return tile


def _shortened(text: str, length: int = 78) -> str:
    plain = text.encode("ascii", "replace").decode()
    return plain if len(plain) <= length else plain[: length - 3] + "..."
