"""Triton's own answers: masks as logits, which the batches that requests share must not change."""

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
from cpcsam.contract import (
    IMAGE_BYTES,
    MASK_SELECTION,
    POINT_COORDS,
    POINT_LABELS,
    SEGMENT,
    SELECTED_LOW_RES_MASKS,
)
from cpcsam.geometry import Box
from serving.gateway.inference.prompt_batches import chunk_prompts

__all__ = ["Logits", "logits_of", "probe", "relative_difference"]

Logits = NDArray[np.float32]
TIMEOUT_S = 120.0


async def logits_of(client: InferenceServerClient, task: Task) -> Logits:
    """The logits of a task's first prompts, as many as fit into one call, (P, M, 4G, 4G)."""
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
    logits: Logits = result.as_numpy(wanted)[0, : chunk.count]
    return logits


def relative_difference(found: Logits, expected: Logits) -> float:
    """Largest difference over the largest value."""
    return float(abs(found - expected).max() / abs(expected).max())


async def probe(
    client: InferenceServerClient,
    tasks: Sequence[Task],
    alone: Sequence[Logits],
    seconds: float,
    askers: int,
) -> list[float]:
    """Ask for logits beside other clients, and compare with those computed alone.

    Returns:
        The relative difference of every answer.
    """
    until = monotonic() + seconds

    async def ask(number: int) -> list[float]:
        differences, turn = [], number
        while monotonic() < until:
            index = turn % len(tasks)
            found = await logits_of(client, tasks[index])
            differences.append(relative_difference(found, alone[index]))
            turn += askers
        return differences

    return [one for found in await asyncio.gather(*map(ask, range(askers))) for one in found]
