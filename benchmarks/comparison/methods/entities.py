"""Entities from foreground maps or from an annotator's boxes, for methods that find none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.instance_mask import InstanceMask, bbox_from_mask
from cpcsam.automatic.tiling import tile_boxes
from cpcsam.backends.protocol import Backend
from cpcsam.contract import MASK_THRESHOLD, PROMPT_BUCKETS, PointLabel
from cpcsam.geometry import Box
from cpcsam.transforms import to_frame, upscale_masks
from training.data.sample import Sample

__all__ = [
    "entities_of",
    "found_in",
    "owned_tiles",
    "segment_annotated",
    "split_touching",
    "typical_radius",
]

MIN_AREA: Final = ClassSearchConfig().min_area
"""Fewer pixels are no entity, as in automatic segmentation."""

BoolMask = NDArray[np.bool_]


def split_touching(foreground: BoolMask, radius: float) -> NDArray[np.int32]:
    """Separate entities that touch, by a watershed of the distance to the background.

    Args:
        foreground: (H, W) bool.
        radius: of a typical entity in pixels; centres are at least that far apart.

    Returns:
        (H, W) int32, 0 for background and 1..n for the entities.
    """
    parts, _ = ndimage.label(foreground)
    # Smoothed, as a ragged outline gives the distance several maxima an entity.
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(foreground), 1)
    # exclude_border's default would drop the centres of entities near the image's border.
    centres = peak_local_max(
        distance, min_distance=max(1, round(radius)), labels=parts, exclude_border=False
    )
    markers = np.zeros(foreground.shape, np.int32)
    markers[tuple(centres.T)] = np.arange(1, len(centres) + 1)
    labels: NDArray[np.int32] = watershed(-distance, markers, mask=foreground)
    return labels.astype(np.int32)


def entities_of(labels: NDArray[np.int32]) -> Iterator[tuple[BoolMask, tuple[int, int]]]:
    """The entities of a label image, each in its own box: mask (h, w) and corner (top, left)."""
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            yield labels[box] == label, (box[0].start, box[1].start)


def typical_radius(samples: Iterable[Sample]) -> float:
    """Median radius, in pixels, of discs as large as the entities."""
    areas = np.concatenate(
        [np.bincount(sample.instances.ravel())[1:] for sample in samples] or [np.zeros(0, int)]
    )
    # bincount has a 0 for every label that the image does not show.
    areas = areas[areas > 0]
    return float(np.sqrt(np.median(areas) / np.pi)) if len(areas) else 1.0


def found_in(
    mask: BoolMask, class_index: int, score: float, corner: tuple[int, int] = (0, 0)
) -> InstanceMask | None:
    """A mask as automatic segmentation gives them; None where it has too few pixels.

    Args:
        mask: (h, w) bool, of the image or a part of it.
        class_index: of its class.
        score: orders masks, the best first.
        corner: (top, left) of that part in the image.
    """
    if int(mask.sum()) < MIN_AREA:
        return None
    top, left = corner
    bbox = bbox_from_mask(mask)
    tile = bbox.translate(top, left)
    y, x = (float(place.mean()) for place in np.nonzero(mask))
    return InstanceMask.from_mask(
        np.ascontiguousarray(bbox.crop(mask)),
        tile,
        score=score,
        tile=tile,
        class_index=class_index,
        point=(left + x, top + y),
    )


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
    found = []
    for part, labels in owned_tiles(sample, names, tile):
        frame, input_size = to_frame(part.crop(sample.image), backend.image_size)
        embeddings = backend.encode(frame[None], np.array([input_size], np.int32))
        # No more prompts a call than serving's largest bucket.
        for start in range(0, len(labels), PROMPT_BUCKETS[-1]):
            chunk = labels[start : start + PROMPT_BUCKETS[-1]]
            boxes = np.stack([_box(sample, label, part, input_size) for label in chunk])
            corners = (PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT)
            point_labels = np.tile(np.array(corners, np.int32), (1, len(chunk), 1))
            masks, predicted = backend.decode(embeddings, boxes[None], point_labels)
            for label, logits, iou in zip(chunk, masks[0, :, 0], predicted[0, :, 0], strict=True):
                mask = upscale_masks(logits, input_size, part.size, backend.image_size)
                name = names.index(sample.class_of(label))
                one = found_in(mask > MASK_THRESHOLD, name, float(iou), (part.top, part.left))
                found += [one] if one is not None else []
    return found


def owned_tiles(
    sample: Sample, names: tuple[str, ...], tile: int
) -> Iterator[tuple[Box, list[int]]]:
    """Assign every entity to the tile that shows most of it.

    Args:
        sample: an annotated image.
        names: classes of the entities.
        tile: side of the tiles; 0 takes the whole image.

    Yields:
        The tiles that own entities, and those entities' labels.
    """
    tiles = tile_boxes(sample.size, tile, ClassSearchConfig().overlap)
    owners = _owners(sample, tiles)
    for index, part in enumerate(tiles):
        labels = [
            label
            for label, owner in owners.items()
            if owner == index and sample.class_of(label) in names
        ]
        if labels:
            yield part, labels


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
