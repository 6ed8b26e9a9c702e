"""Label values of any type as labels of a sample."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BELOW_ZERO", "whole_labels"]

MOST_LABELS: Final = 65535
BELOW_ZERO: Final = "label images with values below 0, taken as background"
"""How an account calls them."""


def whole_labels(
    values: NDArray[Any], renumber: bool = True
) -> tuple[NDArray[np.int32], list[str]]:
    """Convert label values of any type to int32: rounded, 0 for what is no label.

    Args:
        values: of any shape; integers, floats or bool.
        renumber: number labels anew, in their order, if the highest is above 65535, as memory
            grows with it; otherwise values stay, the highest that int32 cannot hold excepted.

    Returns:
        The labels, and one phrase for each change.
    """
    changes = []
    if values.dtype.kind == "f":
        finite = np.nan_to_num(values.astype(np.float64), nan=0, posinf=0, neginf=0)
        whole = np.rint(finite)
        if (np.abs(finite - whole) > 0.01).any():
            changes.append("label images of fractions, rounded")
        values = whole
    if values.dtype.kind != "u" and values.min(initial=0) < 0:
        changes.append(BELOW_ZERO)
        values = np.where(values < 0, 0, values)
    if not renumber:
        values = np.minimum(values, np.iinfo(np.int32).max)
    elif values.max(initial=0) > MOST_LABELS:
        kinds, places = np.unique(values, return_inverse=True)
        # Background stays 0 also where there is none.
        first = 0 if kinds[0] == 0 else 1
        values = places.reshape(values.shape) + first
    return values.astype(np.int32), changes
