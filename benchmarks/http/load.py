"""Scenario `load`: many clients by HTTP, none of whose requests is lost."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from hashlib import sha256
from time import monotonic
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.http.front import Front
from benchmarks.serving.load import percentiles
from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.tasks import Task, draw_tasks

__all__ = ["run"]

IMAGES: Final = 32
TIMEOUT_S: Final = 120.0
SENT_AGAIN: Final = 4
"""Of so many requests one sends its image; the others name it."""


def run(front: Front, clients: int, seconds: float) -> tuple[dict[str, Any], list[Check]]:
    """Have each client send one request after the other, by form or by image_id.

    A refusal that tells when to retry is followed; any other end but 200 is a loss.

    Args:
        front: to be loaded.
        clients: at once, each with a connection.
        seconds: for which they begin new requests.

    Returns:
        Figures and checks.
    """
    return asyncio.run(_run(front, clients, seconds))


async def _run(front: Front, clients: int, seconds: float) -> tuple[dict[str, Any], list[Check]]:
    tasks = draw_tasks(IMAGES, seed=6)
    end = monotonic() + seconds
    statuses: Counter[str] = Counter()
    times: list[float] = []
    started = monotonic()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=front.url, timeout=TIMEOUT_S, limits=limits) as client:

        async def work(number: int) -> None:
            rng = np.random.default_rng(number)
            while monotonic() < end:
                task = tasks[int(rng.integers(IMAGES))]
                begun = monotonic()
                statuses[await _send(client, task, rng, statuses)] += 1
                times.append(monotonic() - begun)

        await asyncio.gather(*(work(number) for number in range(clients)))
    lasted = monotonic() - started
    lost = sum(count for status, count in statuses.items() if status not in ("200", "retried"))
    held = front.metric("cpcsam_http_held_bytes")
    in_flight = front.metric("cpcsam_http_in_flight_requests")
    figures = {
        "clients": clients,
        "seconds": round(lasted, 1),
        "requests_per_s": round(statuses["200"] / lasted, 1),
        "answers": dict(statuses),
        "seconds_of_a_request": percentiles(times),
        "held_bytes_afterwards": held,
        "in_flight_afterwards": in_flight,
    }
    return figures, [
        at_most("requests lost", lost, 0),
        at_least("requests answered", statuses["200"], clients),
        at_most("bytes held afterwards", held, 0),
        at_most("requests in flight afterwards", in_flight, 0),
    ]


async def _send(
    client: httpx.AsyncClient, task: Task, rng: np.random.Generator, statuses: Counter[str]
) -> str:
    """Send one request until it is answered otherwise than by a time to retry; return its end."""
    height, width = task.size
    point = {"x": float(rng.uniform(0, width - 1)), "y": float(rng.uniform(0, height - 1))}
    request: dict[str, Any] = {"prompts": [{"points": [point]}]}
    sends_image = bool(rng.integers(SENT_AGAIN) == 0)
    while True:
        try:
            if sends_image:
                files = {"image": ("image", task.file(0))}
                form = {"request": json.dumps(request)}
                answer = await client.post("/v1/segment", files=files, data=form)
            else:
                named = {**request, "image_id": sha256(task.file(0)).hexdigest()}
                answer = await client.post("/v1/segment", json=named)
        except httpx.HTTPError as error:
            return type(error).__name__
        if answer.status_code == httpx.codes.NOT_FOUND and not sends_image:
            sends_image = True  # as every client does where the image is not known (any more)
        elif "retry-after" in answer.headers:
            statuses["retried"] += 1
            await asyncio.sleep(answer.json()["retry_after_s"] * float(rng.uniform(1, 1.5)))
        else:
            return str(answer.status_code)
