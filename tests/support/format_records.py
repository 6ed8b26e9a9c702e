"""An image with masks that formats find hard: holes, corners, parts, overlaps, a pixel, none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.formats.records import ImageRecord, MaskRecord

SIZE = (40, 60)
Boxes = tuple[tuple[int, int, int, int], ...]

SHAPES: dict[str, tuple[Boxes, Boxes]] = {
    "plain": (((2, 3, 12, 15),), ()),
    "holes": (((15, 5, 30, 25),), ((18, 8, 22, 12), (24, 14, 27, 20), (18, 14, 20, 16))),
    # Two squares of background that meet the outside, and each other, at corners.
    "notches": (((14, 30, 24, 38),), ((15, 31, 17, 33), (14, 33, 15, 34), (17, 33, 18, 34))),
    "parts": (((2, 40, 10, 50), (20, 40, 30, 50)), ()),
    "over": (((5, 8, 20, 20),), ()),
    "pixel": (((39, 59, 40, 60),), ()),
    "edge": (((30, 0, 40, 9), (35, 9, 40, 12)), ((33, 0, 34, 3),)),
}
"""Pixels of each mask, and pixels taken out of it, as top, left, bottom, right."""

LABELS = ("cell", "ring", "ring", "cell & more", "cell", "entity", "cell")


def mask_of(name: str) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, bool)
    drawn, removed = SHAPES[name]
    for boxes, value in ((drawn, True), (removed, False)):
        for top, left, bottom, right in boxes:
            mask[top:bottom, left:right] = value
    return mask


MASKS = {name: mask_of(name) for name in SHAPES}


def records(with_empty: bool = False) -> list[MaskRecord]:
    """The masks with falling scores from 0.9."""
    masks = [*MASKS.values(), *([np.zeros(SIZE, bool)] if with_empty else [])]
    labels = [*LABELS, "cell"]
    prompt: dict[str, Any] = {"point_coords": [[1.0, 2.0]], "point_labels": [1], "box": None}
    return [
        MaskRecord.of_mask(
            mask,
            label=labels[index],
            score=0.9 - 0.1 * index,
            stability=0.5 + 0.01 * index,
            prompt_index=index,
            prompt=prompt,
        )
        for index, mask in enumerate(masks)
    ]


def image_record(folder: Path, name: str = "deep/a", with_empty: bool = False) -> ImageRecord:
    """The image as a file below the folder, and its masks."""
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return ImageRecord(f"{name}.png", name, SIZE, records(with_empty), path, "segment 3")
