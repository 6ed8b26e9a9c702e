"""Bucketed, padded prompt tensors: few shapes, so that Triton can batch different requests.

A request's prompts are split into chunks of at most the largest prompt bucket. Within a chunk the
prompts and their points are padded with slots labelled -1, which change no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import POINT_BUCKETS, PROMPT_BUCKETS, PointLabel, bucket
from cpcsam.geometry import Box
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.validation.prompts import slots_of

__all__ = ["PromptChunk", "chunk_prompts", "chunk_tensors"]

Slots = list[tuple[float, float, PointLabel]]


@dataclass(frozen=True)
class PromptChunk:
    """Padded prompts of one call to Triton; P and N are bucket sizes.

    Attributes:
        count: number of real prompts; they come first, padding follows.
        point_coords: (1, P, N, 2) float32, (X, Y) pixels of the image or tile.
        point_labels: (1, P, N) int32, -1 in empty slots.
        mask_input: (1, P, 1, 4G, 4G) float32 logits, if the prompts have masks.
        calibrate: whether the prompts are calibrated, and returned as they were taken; None if the
            model decides, and none is returned.
    """

    count: int
    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.int32]
    mask_input: NDArray[np.float32] | None = None
    calibrate: bool | None = None


def chunk_prompts(
    prompts: Sequence[pb.Prompt], tile: Box, calibrate: bool | None = None
) -> list[PromptChunk]:
    """Split validated prompts, all with a mask or all without, into padded chunks, in order.

    Args:
        prompts: in the image's frame, pixels.
        tile: part of the image that is encoded; coordinates become relative to it.
        calibrate: as of `PromptChunk`.
    """
    size = PROMPT_BUCKETS[-1]
    chunks = (_chunk(prompts[start : start + size], tile) for start in range(0, len(prompts), size))
    return [replace(chunk, calibrate=calibrate) for chunk in chunks]


def chunk_tensors(
    point_coords: NDArray[np.float32], point_labels: NDArray[np.int32]
) -> list[PromptChunk]:
    """Split prompt tensors, (P, N, 2) float32 and (P, N) int32, into padded chunks, in order."""
    size = PROMPT_BUCKETS[-1]
    return [
        _padded(point_coords[start : start + size], point_labels[start : start + size])
        for start in range(0, len(point_labels), size)
    ]


def _chunk(prompts: Sequence[pb.Prompt], tile: Box) -> PromptChunk:
    slots = [_slots(prompt) for prompt in prompts]
    shape = len(prompts), max(map(slots_of, prompts))
    point_coords = np.zeros((*shape, 2), np.float32)
    point_labels = np.full(shape, PointLabel.EMPTY, np.int32)
    for row, points in enumerate(slots):
        for column, (x, y, label) in enumerate(points):
            point_coords[row, column] = x - tile.left, y - tile.top
            point_labels[row, column] = label
    masks = None
    if prompts[0].HasField("mask_input"):
        masks = np.stack([np.frombuffer(prompt.mask_input.logits, "<f4") for prompt in prompts])
    return _padded(point_coords, point_labels, masks)


def _padded(
    point_coords: NDArray[np.float32],
    point_labels: NDArray[np.int32],
    masks: NDArray[np.float32] | None = None,
) -> PromptChunk:
    """Pad (P, N, 2), (P, N) and (P, 4G * 4G) to bucket sizes."""
    count, slots = point_labels.shape
    # Triton batches only requests of equal shapes, hence buckets.
    rows, columns = bucket(count, PROMPT_BUCKETS), bucket(slots, POINT_BUCKETS)
    padding = ((0, rows - count), (0, columns - slots))
    coords = np.pad(point_coords, (*padding, (0, 0)))[None]
    labels = np.pad(point_labels, padding, constant_values=PointLabel.EMPTY)[None]
    mask_input = None
    if masks is not None:
        side = round(masks.shape[1] ** 0.5)
        square = masks.reshape(1, count, 1, side, side)
        mask_input = np.pad(square, ((0, 0), padding[0], *((0, 0),) * 3))
    return PromptChunk(count, coords, labels, mask_input)


def _slots(prompt: pb.Prompt) -> Slots:
    """List points first, then the box's corners, in the order of official SAM."""
    slots = [
        (point.x, point.y, PointLabel.BACKGROUND if point.background else PointLabel.FOREGROUND)
        for point in prompt.points
    ]
    if prompt.HasField("box"):
        slots.append((prompt.box.x0, prompt.box.y0, PointLabel.BOX_TOP_LEFT))
        slots.append((prompt.box.x1, prompt.box.y1, PointLabel.BOX_BOTTOM_RIGHT))
    return slots
