"""Masks of official SamAutomaticMaskGenerator beside those that are to be the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.one_click import iou_score


class Seen(NamedTuple):
    """A mask of the image's size that was found, its predicted IoU, its stability and its click."""

    mask: NDArray[np.bool_]
    score: float
    stability: float
    click: tuple[float, float]


def assert_found(expected: Sequence[Mapping[str, Any]], found: Sequence[Seen]) -> None:
    """98 % of the official masks are found, as is hardly anything else: IoU 0.99, same score."""
    assert len(expected) > 20
    assert len(found) == pytest.approx(len(expected), rel=0.02)
    same = 0
    for one in expected:
        overlaps = [iou_score(seen.mask, one["segmentation"]) for seen in found]
        if max(overlaps) >= 0.99:
            same += 1
            best = found[int(np.argmax(overlaps))]
            assert best.score == pytest.approx(one["predicted_iou"], abs=1e-3)
            assert best.stability == pytest.approx(one["stability_score"], abs=1e-2)
            assert best.click == pytest.approx(one["point_coords"][0], abs=1e-3)
    assert same >= 0.98 * len(expected)
