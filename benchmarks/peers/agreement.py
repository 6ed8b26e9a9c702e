"""Agreement of masks with official SAM's, without which no times are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.load.workloads import EVERYTHING, Workload
from cpcsam.automatic.rle import mask_from_rle
from cpcsam.errors import ServingError

__all__ = ["MIN_MEAN_IOU", "agreement", "require_agreement"]

MIN_MEAN_IOU: Final = 0.99
Masks = Mapping[str, Sequence[Sequence[str]]]
"""COCO `counts` of each mask of each request, by the name of the workload."""


def agreement(
    workloads: Sequence[Workload], expected: Masks, found: Masks
) -> dict[str, dict[str, Any]]:
    """Compare masks prompt by prompt; those of a grid, which have no order, with the nearest.

    Args:
        workloads: that both answered.
        expected: official SAM's.
        found: another system's.

    Returns:
        By workload: `masks` expected, `found`, and `mean_iou` and `min_iou` over those expected,
        and for grids those of the found with the nearest expected ones as well. A request that is
        answered by another number of masks, though its prompts are given, has IoU 0.
    """
    return {
        workload.name: _compare(workload, expected[workload.name], found[workload.name])
        for workload in workloads
    }


def _compare(
    workload: Workload, expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> dict[str, Any]:
    size, ious = (workload.side, workload.side), []
    for theirs, ours in zip(expected, found, strict=True):
        first, second = ([_mask(counts, size) for counts in masks] for masks in (theirs, ours))
        if workload.kind == EVERYTHING:
            ious += [_nearest(mask, second) for mask in first]
            ious += [_nearest(mask, first) for mask in second]
        elif len(first) == len(second):
            ious += [_iou(*pair) for pair in zip(first, second, strict=True)]
        else:
            ious += [0.0] * len(first)
    return {
        "masks": sum(map(len, expected)),
        "found": sum(map(len, found)),
        # No mask at all, on both sides, is agreement.
        "mean_iou": mean(ious) if ious else 1.0,
        "min_iou": min(ious, default=1.0),
    }


def _mask(counts: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    return mask_from_rle(counts.encode(), size)


def _nearest(mask: NDArray[np.bool_], others: Sequence[NDArray[np.bool_]]) -> float:
    return max((_iou(mask, other) for other in others), default=0.0)


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def require_agreement(system: str, compared: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a system that answers otherwise than official SAM.

    Raises:
        ServingError: the mean IoU of a workload is below `MIN_MEAN_IOU`.
    """
    for name, figures in compared.items():
        if not figures["mean_iou"] >= MIN_MEAN_IOU:
            raise ServingError.of(
                f"masks of {system}, {name}",
                got=f"a mean IoU of {figures['mean_iou']:.4f} with official SAM's",
                expected=f"at least {MIN_MEAN_IOU}",
                fix="compare its images, prompts and weights before its times",
            )
