"""Scenario `growth`: ten thousand ordinary requests must leave every process as large as it was."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

import numpy as np

from benchmarks.chaos.services import GATEWAY, memory_bytes, port_of, roles_below, supervised
from benchmarks.chaos.steady import SteadyLoad
from benchmarks.serving.load import Outcome, rate, statuses
from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.stack import encoder_runs, gateway_metric
from cpcsam.contract import IMAGE_EMBEDDINGS
from cpcsam.entry_points import DECODER
from demo.commands import Service
from export.triton_repository.config import EMBEDDING_STORE_BYTES
from serving.triton.check_repository import open_repository

__all__ = ["Process", "Sample", "growth_of", "run", "stored_bytes"]

GROWTH: Final = 1.02
CLIENTS: Final = 4
ASKED: Final = 2
"""Requests about each image: one that encodes it and one that knows it."""
WARM_UP: Final = 2
"""Requests of the warm-up: the others divided by this, enough to fill Triton's store."""
STEP_S: Final = 0.5
SAMPLES: Final = 60
"""Last samples that count: more than a minute, in which freed memory returns several times."""
STALLED_S: Final = 60.0

Process = tuple[str, int]
"""Role and process id."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class Sample:
    """Memory at a moment.

    Attributes:
        used: resident bytes of each process.
        cached: bytes that the caches hold, by role.
    """

    used: Mapping[Process, int]
    cached: Mapping[str, int]

    def besides(self, process: Process) -> int:
        """Bytes of a process without its cache."""
        return self.used[process] - self.cached.get(process[0], 0)


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
    _, before = await _send(running, embedding, -(-requests // WARM_UP))
    outcomes, after = await _send(running, embedding, requests)
    good = sum(outcome.status == "OK" for outcome in outcomes)
    figures = {
        "requests": len(outcomes),
        "statuses": statuses(outcomes),
        "answers_a_second": rate(outcomes),
        "bytes_before": _named(_medians([sample.used for sample in before])),
        "bytes_after": _named(_medians([sample.used for sample in after])),
        "bytes_of_caches_before": _medians([sample.cached for sample in before]),
        "bytes_of_caches_after": _medians([sample.cached for sample in after]),
    }
    return figures, [
        at_least("ordinary requests answered", good, requests),
        at_most("ordinary requests that failed", len(outcomes) - good, 0),
        *(
            at_most(f"memory of {role} {process}, of what it was", growth, GROWTH)
            for (role, process), growth in growth_of(before, after).items()
        ),
    ]


def growth_of(before: Sequence[Sample], after: Sequence[Sample]) -> dict[Process, float]:
    """Compare the medians of memory before and after, besides what caches have taken since.

    Returns:
        Memory of each process that there was before, of what it was; NaN if it has not lived on.
    """
    grown = {}
    for process in before[-1].used:
        if any(process not in sample.used for sample in (*before, *after)):
            grown[process] = float("nan")
            continue
        was = median(sample.used[process] for sample in before)
        less = median(sample.besides(process) for sample in before)
        more = median(sample.besides(process) for sample in after)
        grown[process] = 1 + (more - less) / was
    return grown


def stored_bytes(images: int, embedding: int) -> int:
    """Bytes that Triton's store of embeddings holds at most after so many images."""
    return min(images * embedding, EMBEDDING_STORE_BYTES)


def _medians(samples: Sequence[Mapping[Key, int]]) -> dict[Key, float]:
    """Median of each entry of the last sample."""
    return {key: median(sample.get(key, 0) for sample in samples) for key in samples[-1]}


def _named(used: Mapping[Process, float]) -> dict[str, float]:
    return {f"{role} {process}": value for (role, process), value in used.items()}


def _sample(running: Service, embedding: int) -> Sample:
    roles = roles_below(running.pid, port_of(running.gateway))
    used = {
        (role, process): memory_bytes(process)
        for role, processes in roles.items()
        for process in processes
    }
    cached = {
        GATEWAY: int(gateway_metric(running, "cpcsam_cache_bytes")),
        DECODER.name: stored_bytes(encoder_runs(running).images, embedding),
    }
    return Sample(used, cached)


async def _send(
    running: Service, embedding: int, requests: int
) -> tuple[Sequence[Outcome], Sequence[Sample]]:
    """Send so many requests, or stop where answers have ceased; the last samples of memory."""
    samples: deque[Sample] = deque(maxlen=SAMPLES)
    async with SteadyLoad(running.gateway, CLIENTS, asked=ASKED) as load:
        answered = time.monotonic()
        while len(load.seen.outcomes) < requests and time.monotonic() < answered + STALLED_S:
            if await load.settle(STEP_S):
                answered = time.monotonic()
            samples.append(await asyncio.to_thread(_sample, running, embedding))
    return load.seen.outcomes, samples
