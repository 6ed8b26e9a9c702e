"""Baseline without training: Otsu's threshold and a watershed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from benchmarks.budget import Budget
from benchmarks.comparison.methods.entities import (
    entities_of,
    found_in,
    split_touching,
    typical_radius,
)
from benchmarks.comparison.methods.interface import Fitted, Task
from cpcsam.automatic.instance_mask import InstanceMask
from training.data.sample import Sample

__all__ = ["ClassicalMethod"]


@dataclass(frozen=True)
class ClassicalMethod:
    """Entities are what lies on the rarer side of Otsu's threshold, split by a watershed.

    An entity is of the class whose mean colour in the support set is nearest to its own.

    Attributes:
        label: for tables.
        blur: of the grey image before thresholding, pixels.
    """

    label: str
    blur: float = 1.0

    def fit(self, task: Task, budget: Budget, seed: int) -> Fitted:
        """Measure the support set's typical radius and its classes' colours; nothing is trained."""
        radius, colours = typical_radius(task.support), _colours(task)

        def segment(sample: Sample) -> list[InstanceMask]:
            grey = ndimage.gaussian_filter(sample.image.mean(2), self.blur)
            threshold = threshold_otsu(grey)
            bright = grey > threshold
            rarer = bright if bright.mean() < 0.5 else ~bright
            labels = split_touching(ndimage.binary_fill_holes(rarer), radius)
            found = []
            for mask, (top, left) in entities_of(labels):
                part = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
                colour = sample.image[part][mask].mean(0)
                nearest = int(np.linalg.norm(colours - colour, axis=1).argmin())
                # AP needs an order of the masks, and there is no IoU head to give one.
                contrast = abs(float(grey[part][mask].mean()) - threshold) / 255
                one = found_in(mask, nearest, contrast, (top, left))
                found += [one] if one is not None else []
            return found

        return Fitted(segment)


def _colours(task: Task) -> NDArray[np.float64]:
    """Mean colour of each class's pixels in the support set, (classes, 3)."""
    pixels: list[list[NDArray[np.float64]]] = [[] for _ in task.names]
    for sample in task.support:
        for label in np.unique(sample.instances[sample.instances > 0]):
            name = sample.class_of(int(label))
            if name in task.names:
                pixels[task.names.index(name)].append(
                    sample.image[sample.instances == label].mean(0)
                )
    return np.stack([np.mean(of_class, axis=0) for of_class in pixels])
