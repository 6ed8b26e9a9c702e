"""Scenario `growth`: ten thousand ordinary requests must leave every process as large as it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.chaos.services import GATEWAY, memory_bytes, port_of, roles_below, supervised
from benchmarks.chaos.steady import SteadyLoad
from benchmarks.serving.load import rate, statuses
from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.stack import encoder_runs, gateway_metric
from cpcsam.contract import IMAGE_EMBEDDINGS
from cpcsam.entry_points import DECODER
from demo.commands import Service
from export.triton_repository.config import EMBEDDING_STORE_BYTES
from serving.common.memory import PERIOD_S
from serving.triton.check_repository import open_repository

__all__ = ["growth_of", "run", "stored_bytes"]

GROWTH: Final = 1.02
CLIENTS: Final = 4
ASKED: Final = 2
"""Requests about each image: one that encodes it and one that knows it."""
WARM_UP: Final = 5
"""Requests of the warm-up: the others divided by this."""
PAUSE_S: Final = PERIOD_S + 5
"""After requests, until freed memory has been returned."""
STALLED_S: Final = 60.0
STEP_S: Final = 0.1


def run(repository: Path, build: Path, requests: int) -> tuple[dict[str, Any], list[Check]]:
    """Send ordinary requests and compare the memory of all processes before and after.

    Args:
        repository: to serve.
        build: for logs.
        requests: number after the warm-up.

    Returns:
        Figures and checks.
    """
    _, manifest = open_repository(repository)
    shape = IMAGE_EMBEDDINGS.shape(int(manifest.config["image_size"]))
    embedding = prod(map(abs, shape)) * np.dtype(IMAGE_EMBEDDINGS.dtype).itemsize
    with supervised(repository, build) as running:
        return asyncio.run(_run(running, embedding, requests))


async def _run(
    running: Service, embedding: int, requests: int
) -> tuple[dict[str, Any], list[Check]]:
    await _send(running, requests // WARM_UP)
    before, cached = _memory(running), _cached(running, embedding)
    load = await _send(running, requests)
    after = _memory(running)
    allowed = {
        role: bytes_now - cached[role] for role, bytes_now in _cached(running, embedding).items()
    }
    outcomes = load.seen.outcomes
    good = sum(outcome.status == "OK" for outcome in outcomes)
    grown = {
        process: growth_of(used, after.get(process, 0), allowed.get(process[0], 0))
        for process, used in before.items()
    }
    figures = {
        "requests": len(outcomes),
        "statuses": statuses(outcomes),
        "answers_a_second": rate(outcomes),
        "bytes_before": {f"{role} {process}": used for (role, process), used in before.items()},
        "bytes_after": {f"{role} {process}": used for (role, process), used in after.items()},
        "bytes_of_caches": allowed,
    }
    return figures, [
        at_least("ordinary requests answered", good, requests),
        at_most("ordinary requests that failed", len(outcomes) - good, 0),
        *(
            at_most(f"memory of {role} {process}, of what it was", growth, GROWTH)
            for (role, process), growth in grown.items()
        ),
    ]


def growth_of(before: int, after: int, cached: int) -> float:
    """Memory of a process as a part of what it was, without what its cache was allowed to take."""
    return (after - max(0, cached)) / before if after else float("nan")


def stored_bytes(images: int, embedding: int) -> int:
    """Bytes that Triton's store of embeddings holds at most after so many images."""
    return min(images * embedding, EMBEDDING_STORE_BYTES)


def _memory(running: Service) -> dict[tuple[str, int], int]:
    """Resident bytes by role and process."""
    roles = roles_below(running.pid, port_of(running.gateway))
    return {
        (role, process): memory_bytes(process)
        for role, processes in roles.items()
        for process in processes
    }


def _cached(running: Service, embedding: int) -> Mapping[str, int]:
    """Bytes that the caches hold, by role."""
    return {
        GATEWAY: int(gateway_metric(running, "cpcsam_cache_bytes")),
        DECODER.name: stored_bytes(encoder_runs(running).images, embedding),
    }


async def _send(running: Service, requests: int) -> SteadyLoad:
    """Send so many requests, or stop where answers have ceased."""
    async with SteadyLoad(running.gateway, CLIENTS, asked=ASKED) as load:
        answered = time.monotonic()
        while len(load.seen.outcomes) < requests and time.monotonic() < answered + STALLED_S:
            if await load.settle(STEP_S):
                answered = time.monotonic()
    await asyncio.sleep(PAUSE_S)
    return load
