"""How much longer a batch takes than one of its calls alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Batch", "linear_factors"]


class Batch(NamedTuple):
    """Batches of a step that ran while nothing else did.

    Attributes:
        step: that computed them.
        size: number of their calls.
        seconds: of one of them, in the mean.
        tasks: from which their calls were drawn.
    """

    step: str
    size: int
    seconds: float
    tasks: Sequence[int]


def linear_factors(
    batches: Iterable[Batch], alone: Sequence[Mapping[str, float]], max_batch: int
) -> dict[int, float]:
    """Fit the time of a batch by its size, over the mean time of its calls alone.

    The time grows by an equal part with each further call, found by least squares; one call takes
    its own time. Without batches of several calls, each takes what it takes alone.

    Args:
        batches: of one step.
        alone: of each task, seconds by step.
        max_batch: largest size.
    """
    further: list[tuple[int, float]] = []
    for step, size, seconds, tasks in batches:
        mean_s = float(np.mean([alone[task][step] for task in tasks]))
        if size > 1 and mean_s > 0:
            further.append((size - 1, seconds / mean_s - 1))
    slope = 1.0
    if further:
        calls, growth = np.array(further).T
        slope = max(float(calls @ growth / (calls @ calls)), 0.0)
    return {size: 1 + slope * (size - 1) for size in range(1, max_batch + 1)}
