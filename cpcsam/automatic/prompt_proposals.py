"""Prompt proposals from similarity maps: clicks on peaks, boxes around connected components.

Coordinates are (X, Y) pixels of the encoder's frame. Plain numpy: `scipy.ndimage.label` gives the
same components faster and `maximum_filter` the same peaks no faster, but on grids of 16 to 64 cells
either takes a millisecond, and the gateway would need scipy for nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import PATCH_SIZE, PointLabel

__all__ = ["GeneratedPrompts", "components", "peaks", "prompts_from_similarity"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class GeneratedPrompts:
    """Prompts of one image, in the form of the tensor contract.

    Attributes:
        point_coords: (P, 2, 2) float32, (X, Y).
        point_labels: (P, 2) int32: a click and an empty slot, or the corners of a box.
        class_indices: (P,) int64, the class each is for.
        similarity: (P,) float32, the class's probability at the click, or its component's mean.
    """

    point_coords: Array
    point_labels: NDArray[np.int32]
    class_indices: NDArray[np.int64]
    similarity: Array

    def __len__(self) -> int:
        return len(self.class_indices)


def prompts_from_similarity(
    similarity_maps: Array, threshold: float, *, boxes: bool = True, dense: bool = False
) -> GeneratedPrompts:
    """Propose prompts for every entity in similarity maps.

    Args:
        similarity_maps: (C, G, G) in [0, 1]; 0 excludes a place.
        threshold: probability from which a place counts.
        boxes: also prompt each component of such places with the box around it.
        dense: click every such place instead of the peaks alone.

    Returns:
        The clicks, then the boxes; none if no place reaches the threshold.
    """
    coords: list[NDArray[np.float64]] = []
    labels, classes, similarity = [], [], []
    for index, probability in enumerate(similarity_maps):
        cells = np.argwhere(probability >= threshold) if dense else peaks(probability, threshold)
        for row, column in cells:
            click = _refined(probability, int(row), int(column))
            coords.append(np.array([click, (0.0, 0.0)]))
            labels.append((PointLabel.FOREGROUND, PointLabel.EMPTY))
            classes.append(index)
            similarity.append(probability[row, column])
    for index, probability in enumerate(similarity_maps if boxes else ()):
        labelled = components(probability >= threshold)
        for label in range(1, int(labelled.max()) + 1):
            member = labelled == label
            rows, columns = np.nonzero(member)
            corners = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
            coords.append(np.array(corners, np.float64) * PATCH_SIZE)
            labels.append((PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT))
            classes.append(index)
            similarity.append(probability[member].mean())
    return GeneratedPrompts(
        np.array(coords, np.float32).reshape(-1, 2, 2),
        np.array(labels, np.int32).reshape(-1, 2),
        np.array(classes, np.int64),
        np.array(similarity, np.float32),
    )


def peaks(probability: Array, threshold: float) -> NDArray[np.int64]:
    """Return local maxima (8-neighbourhood) from the threshold on; of equal neighbours the first.

    Args:
        probability: (G, G).
        threshold: the least probability of a peak.

    Returns:
        (n, 2), row and column.
    """
    height, width = probability.shape
    padded = np.pad(probability, 1, constant_values=-1)
    highest = probability >= threshold
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            neighbour = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
            # Of equal cells the first in reading order is the peak.
            before = (dy, dx) < (0, 0)
            if (dy, dx) != (0, 0):
                highest &= probability > neighbour if before else probability >= neighbour
    return np.argwhere(highest)


def components(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Label connected components (4-connectivity) from 1; 0 is background.

    Args:
        mask: (G, G) bool.
    """
    height, width = mask.shape
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    # Labels spread a cell a pass, which is fast enough on the small grids of embeddings.
    while True:
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce(
            [
                padded[dy : dy + height, dx : dx + width]
                for dy, dx in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))
            ]
        )
        spread = np.where(mask, spread, 0)
        if (spread == labels).all():
            break
        labels = spread
    distinct = np.unique(labels[labels > 0])
    return np.where(mask, np.searchsorted(distinct, labels) + 1, 0)


def _refined(probability: Array, row: int, column: int) -> tuple[float, float]:
    """Refine a cell's click (X, Y) by quadratic interpolation through its neighbours."""
    x = column + 0.5 + _vertex(probability[row], column)
    y = row + 0.5 + _vertex(probability[:, column], row)
    # The graph adds half a pixel, so that a coordinate names a pixel by its index.
    return x * PATCH_SIZE - 0.5, y * PATCH_SIZE - 0.5


def _vertex(line: Array, at: int) -> float:
    """Return the vertex of the parabola through three cells, from -1/2 to 1/2 of a cell."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(value) for value in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    # Without a maximum in the middle the vertex lies elsewhere or nowhere.
    if bend >= -1e-6 or here < before or here < after:
        return 0.0
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))
