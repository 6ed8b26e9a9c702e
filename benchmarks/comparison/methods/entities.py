"""From a map of a class's foreground to its entities, for methods that know no entities."""

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
from training.data.sample import Sample

__all__ = ["entities_of", "found_in", "split_touching", "typical_radius"]

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
