"""Goodput under deadlines: requests answered in time, beside the capacity without deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, Final

from tqdm import tqdm

from benchmarks.serving.load import (
    REFUSED,
    Outcome,
    connections,
    percentiles,
    rate,
    repeating,
    send,
    statuses,
)
from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.stack import cores_of, encoder_runs
from benchmarks.serving.tasks import draw_tasks
from cpcsam.v1 import segmentation_pb2 as pb
from demo.commands import Service

__all__ = ["measure_goodput", "measure_slow_model"]

TASKS: Final = 64
CLIENTS: Final = 64
MEASURING: Final = 32
"""Clients that measure the capacity; few enough that none is refused."""
DEADLINES_S: Final = (10.0, 3.0, 1.0)
PATIENCE_S: Final = 60.0
LEAST_SHARE: Final = 0.8
WARM_UP_S: Final = 120.0
FEW: Final = 8
"""Clients of a model that takes seconds."""
REFUSED_S: Final = 0.1


def measure_goodput(
    running: Service, seconds: float, deadlines_s: Sequence[float] = DEADLINES_S
) -> tuple[dict[str, Any], list[Check]]:
    """Measure the goodput of many clients at each deadline between two measurements of capacity.

    Clients wait as long as a refusal asks before they send their next request.

    Args:
        running: the service.
        seconds: of load at each deadline, and of each measurement of capacity.
        deadlines_s: of the requests, seconds.

    Returns:
        Figures and checks.
    """
    return asyncio.run(_measure_goodput(running, seconds, deadlines_s))


async def _measure_goodput(
    running: Service, seconds: float, deadlines_s: Sequence[float]
) -> tuple[dict[str, Any], list[Check]]:
    capacities: list[float] = []
    loads: list[tuple[list[Outcome], float, int]] = []
    async with connections(running.gateway, CLIENTS) as stubs:
        draw = _Draw()
        await repeating(stubs[:MEASURING], draw, seconds / 4, PATIENCE_S)
        for deadline_s in tqdm((*deadlines_s, None), desc="deadlines"):
            measured = await repeating(stubs[:MEASURING], draw, seconds, PATIENCE_S)
            capacities.append(rate(measured))
            if deadline_s is None:
                break
            before = encoder_runs(running)
            with cores_of(running) as cores:
                outcomes = await repeating(stubs, draw, seconds, deadline_s, patient=True)
            await asyncio.sleep(2 * deadline_s)  # until nothing is left of it in Triton
            loads.append((outcomes, cores[0], encoder_runs(running).since(before).images))
    figures: dict[str, Any] = {"capacities_a_second": [round(value, 2) for value in capacities]}
    checks = []
    for deadline_s, load, around in zip(deadlines_s, loads, pairwise(capacities), strict=True):
        outcomes, cores_used, encoded = load
        capacity, goodput = fmean(around), rate(outcomes)
        figures[f"deadline_{deadline_s:g}_s"] = {
            "capacity_a_second": capacity,
            "goodput_a_second": goodput,
            "cores_that_it_got": cores_used,
            "encoded_an_answer": encoded / max(statuses(outcomes).get("OK", 0), 1),
            **_times(outcomes),
        }
        what = f"goodput with deadlines of {deadline_s:g} s, part of the capacity"
        checks.append(at_least(what, goodput / capacity, LEAST_SHARE))
    return figures, checks


def measure_slow_model(running: Service, seconds: float) -> tuple[dict[str, Any], list[Check]]:
    """Measure that a few clients of a model that takes seconds are answered in time or refused.

    Args:
        running: the service.
        seconds: of load.

    Returns:
        Figures and checks.
    """
    return asyncio.run(_measure_slow_model(running, seconds))


async def _measure_slow_model(
    running: Service, seconds: float
) -> tuple[dict[str, Any], list[Check]]:
    async with connections(running.gateway, FEW) as stubs:
        draw = _Draw()
        warm = await send(stubs[0], *draw(0), WARM_UP_S)
        before = encoder_runs(running)
        with cores_of(running) as cores:
            outcomes = await repeating(stubs, draw, seconds, PATIENCE_S, patient=True)
    accepted = [outcome for outcome in outcomes if outcome.status != REFUSED]
    unanswered = sum(outcome.status != "OK" for outcome in accepted)
    refused = [outcome.seconds for outcome in outcomes if outcome.status == REFUSED]
    figures = {
        "clients": FEW,
        "deadline_s": PATIENCE_S,
        "alone_s": warm.seconds,
        "goodput_a_second": rate(outcomes),
        "cores_that_it_got": cores[0],
        "encoded": encoder_runs(running).since(before).images,
        **_times(outcomes),
    }
    return figures, [
        at_least("requests answered", len(accepted) - unanswered, 1),
        at_most("accepted requests that were not answered in time", unanswered, 0),
        at_most("latest refusal, ms", 1e3 * max(refused, default=0.0), 1e3 * REFUSED_S),
    ]


class _Draw:
    """Draws requests, each with a file that the gateway has not seen."""

    def __init__(self) -> None:
        self._tasks = draw_tasks(TASKS, seed=2)
        self._copies = iter(range(10**9))

    def __call__(self, _: int) -> tuple[int, pb.SegmentRequest]:
        copy = next(self._copies)
        return copy, self._tasks[copy % len(self._tasks)].request(copy)


def _times(outcomes: list[Outcome]) -> dict[str, Any]:
    answered = [outcome.seconds for outcome in outcomes if outcome.status == "OK"]
    refused = [outcome.seconds for outcome in outcomes if outcome.status == REFUSED]
    return {
        "statuses": statuses(outcomes),
        "answered_s": percentiles(answered) if answered else {},
        "refused_s": percentiles(refused) if refused else {},
    }
