"""Prompts as padded tensors: buckets of few shapes, so that Triton can batch different requests.

A request's prompts are cut into chunks of at most the largest prompt bucket. Within a chunk the
prompts and their points are padded with slots labelled -1, which change no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import POINT_BUCKETS, PROMPT_BUCKETS, PointLabel, bucket
from cpcsam.v1 import segmentation_pb2 as pb
from serving.validation import slots_of

__all__ = ["PromptChunk", "chunk_prompts"]


@dataclass(frozen=True)
class PromptChunk:
    """Padded prompts of one call to Triton; P and N are bucket sizes.

    Attributes:
        count: how many of the P prompts are real; they come first.
        point_coords: (1, P, N, 2) float32, (X, Y) pixels of the original image.
        point_labels: (1, P, N) int32, -1 in empty slots.
    """

    count: int
    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.int32]


def chunk_prompts(prompts: Sequence[pb.Prompt]) -> list[PromptChunk]:
    """Cut checked prompts into padded chunks, in order."""
    size = PROMPT_BUCKETS[-1]
    return [_chunk(prompts[start : start + size]) for start in range(0, len(prompts), size)]


def _chunk(prompts: Sequence[pb.Prompt]) -> PromptChunk:
    rows = bucket(len(prompts), PROMPT_BUCKETS)
    columns = bucket(max(map(slots_of, prompts)), POINT_BUCKETS)
    point_coords = np.zeros((1, rows, columns, 2), np.float32)
    point_labels = np.full((1, rows, columns), PointLabel.EMPTY, np.int32)
    for row, prompt in enumerate(prompts):
        for column, (x, y, label) in enumerate(_slots(prompt)):
            point_coords[0, row, column] = x, y
            point_labels[0, row, column] = label
    return PromptChunk(len(prompts), point_coords, point_labels)


def _slots(prompt: pb.Prompt) -> list[tuple[float, float, PointLabel]]:
    """Points first, then the box's corners, as official SAM orders them."""
    slots = [
        (point.x, point.y, PointLabel.BACKGROUND if point.background else PointLabel.FOREGROUND)
        for point in prompt.points
    ]
    if prompt.HasField("box"):
        slots.append((prompt.box.x0, prompt.box.y0, PointLabel.BOX_TOP_LEFT))
        slots.append((prompt.box.x1, prompt.box.y1, PointLabel.BOX_BOTTOM_RIGHT))
    return slots
