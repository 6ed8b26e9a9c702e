"""Prompts of a careful annotator, who knows the truth, as in the paper's Figures 1 and 8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.methods.entities import found_in
from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.predictor import encode_tiles
from cpcsam.backends.protocol import Backend
from cpcsam.contract import MASK_THRESHOLD, PROMPT_BUCKETS, PointLabel
from cpcsam.geometry import Box
from cpcsam.transforms import upscale_masks
from training.data.sample import Sample

__all__ = ["segment_annotated"]


def segment_annotated(
    sample: Sample, backend: Backend, names: tuple[str, ...], tile: int
) -> list[InstanceMask]:
    """Segment every entity by its tight box, in the tile that shows most of it.

    Args:
        sample: its annotation gives the boxes.
        backend: the model.
        names: classes to prompt, which `class_index` counts.
        tile: side of the tiles; 0 shows the whole image.
    """
    shown = list(encode_tiles(sample.image, tile, ClassSearchConfig().overlap, backend))
    owners = _owners(sample, [part for part, *_ in shown])
    found = []
    for index, (part, input_size, embeddings) in enumerate(shown):
        labels = [
            label
            for label, owner in owners.items()
            if owner == index and sample.class_of(label) in names
        ]
        # No more prompts a call than serving's largest bucket.
        for start in range(0, len(labels), PROMPT_BUCKETS[-1]):
            chunk = labels[start : start + PROMPT_BUCKETS[-1]]
            boxes = np.stack([_box(sample, label, part, input_size) for label in chunk])
            corners = (PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT)
            point_labels = np.tile(np.array(corners, np.int32), (1, len(chunk), 1))
            masks, predicted = backend.decode(embeddings[None], boxes[None], point_labels)
            for label, logits, iou in zip(chunk, masks[0, :, 0], predicted[0, :, 0], strict=True):
                mask = upscale_masks(logits, input_size, part.size, backend.image_size)
                name = names.index(sample.class_of(label))
                one = found_in(mask > MASK_THRESHOLD, name, float(iou), (part.top, part.left))
                found += [one] if one is not None else []
    return found


def _owners(sample: Sample, tiles: list[Box]) -> dict[int, int]:
    """The tile, by index, that shows most pixels of each entity."""
    count = int(sample.instances.max()) + 1
    areas = [
        np.bincount(sample.instances[t.top : t.bottom, t.left : t.right].ravel(), minlength=count)
        for t in tiles
    ]
    best = np.argmax(areas, axis=0)
    return {label: int(best[label]) for label in np.unique(sample.instances) if label}


def _box(sample: Sample, label: int, tile: Box, input_size: tuple[int, int]) -> NDArray[np.float32]:
    """(2, 2) float32: the corners of the entity's box in the encoder's frame, (X, Y)."""
    inside = sample.instances[tile.top : tile.bottom, tile.left : tile.right] == label
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    # The far corner is exclusive, hence + 1.
    corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], np.float32)
    scale = np.array([input_size[1] / tile.size[1], input_size[0] / tile.size[0]], np.float32)
    return np.asarray(corners * scale, np.float32)
