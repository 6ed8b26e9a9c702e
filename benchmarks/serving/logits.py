"""Mask logits from Triton itself, which must not depend on the batches that requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import np_to_triton_dtype

from benchmarks.serving.tasks import Task
from cpcsam.contract import POINT_COORDS, POINT_LABELS
from cpcsam.entry_points import (
    IMAGE_BYTES,
    MASK_SELECTION,
    SEGMENT,
    SELECTED_LOW_RES_MASKS,
)
from cpcsam.geometry import Box
from serving.gateway.inference.prompt_batches import chunk_prompts

__all__ = ["Logits", "logits_of", "probe", "relative_difference"]

Logits = NDArray[np.float32]
TIMEOUT_S = 120.0


async def logits_of(client: InferenceServerClient, task: Task) -> Logits:
    """Infer the logits of the task's prompts that fit into a call, (P, M, 4G, 4G) float32."""
    chunk = chunk_prompts(task.request(0).prompts, Box(0, 0, *task.size))[0]
    arrays = {
        IMAGE_BYTES.name: np.array([[task.image_bytes]], np.object_),
        MASK_SELECTION.name: np.array([[task.mask_selection]], np.int32),
        POINT_COORDS.name: chunk.point_coords,
        POINT_LABELS.name: chunk.point_labels,
    }
    inputs = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    wanted = SELECTED_LOW_RES_MASKS.name
    result = await client.infer(
        SEGMENT.name, inputs, outputs=[InferRequestedOutput(wanted)], client_timeout=TIMEOUT_S
    )
    # Behind `count` are the empty prompts that fill the bucket.
    logits: Logits = result.as_numpy(wanted)[0, : chunk.count]
    return logits


def relative_difference(actual: Logits, expected: Logits) -> float:
    """Largest difference over the largest value."""
    return float(abs(actual - expected).max() / abs(expected).max())


async def probe(
    triton: InferenceServerClient,
    tasks: Sequence[Task],
    alone: Sequence[Logits],
    seconds: float,
    clients: int,
) -> list[float]:
    """Request logits under load, and compare them with those computed alone.

    Returns:
        The relative difference of every answer.
    """
    until = monotonic() + seconds

    async def client(number: int) -> list[float]:
        differences, turn = [], number
        while monotonic() < until:
            index = turn % len(tasks)
            logits = await logits_of(triton, tasks[index])
            differences.append(relative_difference(logits, alone[index]))
            turn += clients
        return differences

    lists = await asyncio.gather(*map(client, range(clients)))
    return [difference for differences in lists for difference in differences]
