"""Label images: the masks of their values, each cut out by its bounding box."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpcsam.geometry import Box

__all__ = ["split_labels"]


def split_labels(labels: NDArray[Any]) -> Iterator[tuple[int, Box, NDArray[np.bool_]]]:
    """Iterate over the values of a label image in rising order, without 0.

    Args:
        labels: (H, W) integers.

    Yields:
        The value, its bounding box, and where it is in the box, (h, w) bool.
    """
    rows, columns = np.nonzero(labels)
    values = labels[rows, columns]
    order = np.argsort(values, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    if not len(values):
        return
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    bounds = zip(
        values[starts].tolist(),
        np.minimum.reduceat(rows, starts).tolist(),
        np.minimum.reduceat(columns, starts).tolist(),
        (np.maximum.reduceat(rows, starts) + 1).tolist(),
        (np.maximum.reduceat(columns, starts) + 1).tolist(),
        strict=True,
    )
    for value, *sides in bounds:
        box = Box(*sides)
        yield value, box, box.crop(labels) == value
