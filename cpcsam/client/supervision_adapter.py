"""Conversion of results to `supervision.Detections`, for its annotators, trackers and filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cpcsam.client.results import SegmentResult
from cpcsam.errors import ConfigError, ContractError
from cpcsam.formats import UNNAMED

if TYPE_CHECKING:
    from supervision import Detections

__all__ = ["detection_arrays", "detections_of"]


def detections_of(result: SegmentResult, class_names: Sequence[str] = ()) -> Detections:
    """Convert all masks of a result to `supervision.Detections`.

    Args:
        result: of a request.
        class_names: names whose order defines `class_id`; empty takes the result's labels, sorted.

    Raises:
        ConfigError: supervision is not installed.
        ContractError: a label is not in class_names, or the masks have no pixels.
    """
    try:
        from supervision import Detections
    except ModuleNotFoundError as error:
        raise ConfigError.of(
            "supervision",
            got="no such package",
            expected="supervision, which is optional",
            fix="pip install supervision",
        ) from error
    return Detections(**detection_arrays(result, class_names))


def detection_arrays(result: SegmentResult, class_names: Sequence[str] = ()) -> dict[str, Any]:
    """Build the arrays of `supervision.Detections` for the N masks of a result.

    Args:
        result: of a request.
        class_names: as of `detections_of`.

    Returns:
        `xyxy` (N, 4) float32, `mask` (N, H, W) bool, `confidence` (N,) float32, `class_id` (N,)
        int, and in `data` `class_name` (N,) and `prompt_index` (N,).

    Raises:
        ContractError: as `detections_of`.
    """
    entries = list(result.each())
    labels = [mask.label or UNNAMED for _, _, mask in entries]
    names = list(class_names) or sorted(set(labels))
    if not set(labels) <= set(names):
        raise ContractError.of(
            "class_names",
            got=", ".join(names),
            expected=f"{', '.join(sorted(set(labels)))} among them",
            fix="name all requested classes",
        )
    masks = [mask.array for _, _, mask in entries]
    return {
        "xyxy": np.array([mask.box for _, _, mask in entries], np.float32).reshape(-1, 4),
        "mask": np.array(masks, bool).reshape(-1, *result.original_size),
        "confidence": np.array([mask.score for _, _, mask in entries], np.float32),
        "class_id": np.array([names.index(label) for label in labels], int),
        "data": {
            "class_name": np.array(labels, str),
            "prompt_index": np.array([index for index, _, _ in entries], int),
        },
    }
