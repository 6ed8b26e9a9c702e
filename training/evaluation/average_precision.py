"""Average precision of found entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import InstanceMask

__all__ = ["Detection", "average_precision", "match_entities"]

RECALL_STEPS: Final = 101
"""Points of recall, 0 to 1, at which COCO's average precision reads the curve."""


@dataclass(frozen=True)
class Detection:
    """A found mask: its score, and whether it is the match of a true entity."""

    score: float
    correct: bool


def match_entities(
    found: Sequence[InstanceMask], truth: NDArray[np.int32], iou: float = 0.5
) -> list[Detection]:
    """Match the masks of one image to its entities, as COCO does.

    In order of score, each mask takes the entity that it overlaps most and that no mask has
    taken yet, if their IoU reaches the threshold.

    Args:
        found: masks of one class.
        truth: (H, W), 0 beside that class's entities, 1..n in them.
        iou: the threshold.

    Returns:
        One detection a mask, best score first.
    """
    areas: NDArray[Any] = np.bincount(truth.ravel())
    taken = {0}
    detections = []
    for mask in sorted(found, key=lambda mask: -mask.score):
        shared = np.bincount(mask.bbox.crop(truth)[mask.mask], minlength=len(areas))
        overlap = shared / (areas + mask.area - shared)
        free = [label for label in np.flatnonzero(shared) if label not in taken]
        best = max(free, key=lambda label: float(overlap[label]), default=0)
        correct = best != 0 and overlap[best] >= iou
        if correct:
            taken.add(best)
        detections.append(Detection(mask.score, bool(correct)))
    return detections


def average_precision(detections: Sequence[Detection], entities: int) -> float:
    """Area under precision over recall, read at 101 points of recall as COCO does.

    Args:
        detections: of all images, in any order.
        entities: how many true ones there are.

    Returns:
        From 0 to 1; 1 where there is nothing to find and nothing was found, else 0 without
        entities.
    """
    if not entities:
        return float(not detections)
    if not detections:
        return 0.0
    ordered = sorted(detections, key=lambda one: -one.score)
    hits = np.cumsum([one.correct for one in ordered])
    recall = hits / entities
    precision = hits / np.arange(1, len(hits) + 1)
    # The best precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, RECALL_STEPS), side="left")
    return float(np.append(envelope, 0.0)[places].mean())
