"""Scenario `overload`: at twice the capacity, accepted requests are answered in bounded time."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any, Final

from tqdm import tqdm

from benchmarks.serving.load import (
    arriving,
    connections,
    percentiles,
    rate,
    repeating,
    send,
    statuses,
)
from benchmarks.serving.report import Check, at_most
from benchmarks.serving.stack import cores_of, encoder_runs, gateway_metric
from benchmarks.serving.tasks import draw_tasks
from cpcsam.v1 import segmentation_pb2 as pb
from demo.commands import Service

__all__ = ["run"]

TASKS: Final = 64
CONNECTIONS: Final = 64
CLIENTS: Final = 32
"""Clients that measure the capacity; few enough that none is refused."""
FACTOR: Final = 2.0
TIMEOUT_S: Final = 30.0
REFUSALS: Final = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


def run(running: Service, queue_s: float, seconds: float) -> tuple[dict[str, Any], list[Check]]:
    """Measure single requests, then the capacity, then twice the capacity.

    Args:
        running: the service.
        queue_s: limit of the time in its queue.
        seconds: duration of the arrivals; a third of it for the capacity.

    Returns:
        Figures and checks.
    """
    return asyncio.run(_run(running, queue_s, seconds))


async def _run(
    running: Service, queue_s: float, seconds: float
) -> tuple[dict[str, Any], list[Check]]:
    tasks = draw_tasks(TASKS, seed=1)
    copies = iter(range(10**9))

    def draw(_: int) -> tuple[int, pb.SegmentRequest]:
        copy = next(copies)
        return copy % len(tasks), tasks[copy % len(tasks)].request(copy)

    async with connections(running.gateway, CONNECTIONS) as stubs:
        alone = [
            await send(stubs[0], *draw(0), TIMEOUT_S) for _ in tqdm(range(len(tasks)), desc="alone")
        ]
        measured = await repeating(stubs[:CLIENTS], draw, seconds / 3, TIMEOUT_S, patient=True)
        capacity = rate(measured)
        before = encoder_runs(running)
        with cores_of(running) as cores:
            outcomes = await arriving(stubs, draw, FACTOR * capacity, seconds, TIMEOUT_S)
        encoder = encoder_runs(running).since(before)
        # Refused requests must not hold permits.
        afterwards = await send(stubs[0], *draw(0), TIMEOUT_S)
    left = gateway_metric(running, "cpcsam_in_flight_requests")
    service_s = statistics.median(outcome.seconds for outcome in alone)
    accepted = [outcome.seconds for outcome in outcomes if outcome.status == "OK"]
    refused = [outcome.seconds for outcome in outcomes if outcome.status == REFUSALS[0]]
    other = [outcome for outcome in outcomes if outcome.status not in ("OK", *REFUSALS)]
    figures = {
        "queue_limit_s": queue_s,
        "cores_that_it_got": cores[0],
        "capacity_a_second": capacity,
        "capacity_statuses": statuses(measured),
        "offered_a_second": len(outcomes) / seconds,
        "requests": len(outcomes),
        "statuses": statuses(outcomes),
        "answers_a_second": rate(outcomes),
        "service_alone_s": percentiles([outcome.seconds for outcome in alone]),
        "accepted_s": percentiles(accepted),
        "refused_s": percentiles(refused) if refused else {},
        "encoder_mean_batch": encoder.images / max(encoder.batches, 1),
        "other_messages": sorted({outcome.message for outcome in other})[:5],
        "in_flight_afterwards": left,
        "latencies_s": [round(value, 3) for value in sorted(accepted)],
    }
    bound = 2 * queue_s + service_s
    return figures, [
        at_most("answers that are neither good nor a refusal", len(other), 0),
        at_most("p99 of the accepted, seconds", percentiles(accepted)["p99"], bound),
        at_most("requests in flight afterwards", left, 0),
        at_most("bad answers after the load", int(afterwards.status != "OK"), 0),
    ]
