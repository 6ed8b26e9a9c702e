"""Scenario `deadlines`: expired requests end at once and free their permits; others are in time."""

from __future__ import annotations

import asyncio
import random
import re
import time
from pathlib import Path
from typing import Any, Final

import grpc
from tqdm import tqdm

from benchmarks.serving.goodput import measure_goodput
from benchmarks.serving.load import Outcome, connections, percentiles, repeating, send, statuses
from benchmarks.serving.report import Check, at_least, at_most
from benchmarks.serving.stack import gateway_metric, service
from benchmarks.serving.tasks import draw_tasks
from cpcsam.v1 import segmentation_pb2 as pb
from demo.commands import Service

__all__ = ["ended_at", "run"]

TASKS: Final = 64
BUSY: Final = 24
"""Clients with a long deadline that keep the service busy."""
HURRIED: Final = 16
"""Clients whose deadline expires, and the same number that cancel."""
SHORTEST_S, LONGEST_S = 0.02, 2.0
PATIENCE_S: Final = 60.0
LATE_S: Final = 0.1
PLACES: Final = 8
ROUNDS: Final = 25
TAKEN_S: Final = 0.5
"""Seconds that the permits of a round stay held."""
FULL: Final = "requests in flight: "
"""What the refusal of a request begins with that found all places taken."""
CHUNKS_PROMPTS: Final = 24
"""Prompts of a request that makes two calls."""
LOGGED: Final = re.compile(
    r"^(?P<date>\S+ \S+),(?P<ms>\d+) INFO \S+ Segment '(?P<id>[^']+)': (?P<status>\w+), ", re.M
)


def run(repository: Path, build: Path, seconds: float) -> tuple[dict[str, Any], list[Check]]:
    """Measure lateness under load, whether permits are free at once, and the goodput.

    Args:
        repository: to serve.
        build: for logs.
        seconds: of load.

    Returns:
        Figures and checks.
    """
    with service(repository, build) as running:
        due, outcomes = asyncio.run(_hurry(running, seconds))
        left = gateway_metric(running, "cpcsam_in_flight_requests")
    ends = ended_at(running.log.read_text())
    late = {
        kind: [
            max(0.0, ends[name][0] - moment)
            for name, moment in due.items()
            if name.startswith(kind) and name in ends
        ]
        for kind in ("expiring", "cancelled")
    }
    places = ("--max-in-flight", str(PLACES), "--max-concurrent", "2", "--max-queue", "30")
    with service(repository, build, *places) as running:
        full, refused = asyncio.run(_refill(running))
    with service(repository, build) as running:
        goodput, in_time = measure_goodput(running, seconds)
    seen = [status for name, (_, status) in ends.items() if name in due]
    figures = {
        "requests": len(due),
        "seen_by_the_gateway": len(seen),
        "ends_at_the_gateway": {status: seen.count(status) for status in sorted(set(seen))},
        "patient_clients": statuses(outcomes),
        "late_ms": {
            kind: percentiles([1e3 * value for value in values], digits=1)
            for kind, values in late.items()
        },
        "late_over_100_ms": {
            kind: sum(value > LATE_S for value in values) for kind, values in late.items()
        },
        "in_flight_afterwards": left,
        "places": PLACES,
        "rounds_of_places": ROUNDS,
        **goodput,
    }
    return figures, [
        at_most("latest end after the deadline, ms", 1e3 * max(late["expiring"]), 1e3 * LATE_S),
        at_most("latest end after a cancellation, ms", 1e3 * max(late["cancelled"]), 1e3 * LATE_S),
        at_most("requests in flight afterwards", left, 0),
        at_least(f"of {ROUNDS} times that all places were taken, one more refused", full, ROUNDS),
        at_most(f"refused of {ROUNDS * PLACES} that took freed places", refused, 0),
        *in_time,
    ]


async def _hurry(running: Service, seconds: float) -> tuple[dict[str, float], list[Outcome]]:
    """Mix clients that expire or cancel with patient ones.

    Returns:
        End of each expiring or cancelled request that is due, in seconds since the epoch, by its
        id; and the outcomes of the patient clients.
    """
    tasks, rng = draw_tasks(TASKS, seed=3), random.Random(3)
    numbers = iter(range(10**9))
    due: dict[str, float] = {}

    def draw(_: int) -> tuple[int, pb.SegmentRequest]:
        number = next(numbers)
        return number, tasks[number % len(tasks)].request(number)

    async def hurry(stub: Any, kind: str) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            number, wait_s = next(numbers), rng.uniform(SHORTEST_S, LONGEST_S)
            name = f"{kind}-{number}"
            request = tasks[number % len(tasks)].request(number, name)
            if kind == "expiring":
                due[name] = time.time() + wait_s
                await asyncio.sleep((await send(stub, number, request, wait_s)).retry_s)
            else:
                call = stub.Segment(request, timeout=PATIENCE_S)
                await asyncio.wait([asyncio.ensure_future(_answer(call))], timeout=wait_s)
                # Otherwise it was answered in time, and there is nothing to cancel.
                if not call.done():
                    due[name] = time.time()
                    call.cancel()
                else:
                    await asyncio.sleep(LATE_S)

    async with connections(running.gateway, BUSY + 2 * HURRIED) as stubs:
        hurried = [
            hurry(stub, "expiring" if index % 2 else "cancelled")
            for index, stub in enumerate(stubs[BUSY:])
        ]
        outcomes, _ = await asyncio.gather(
            repeating(stubs[:BUSY], draw, seconds, PATIENCE_S, patient=True),
            asyncio.gather(*hurried),
        )
    # Gives the last requests time to reach the log and the gauge.
    await asyncio.sleep(10 * LATE_S)
    return due, outcomes


async def _answer(call: Any) -> None:
    try:
        await call
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        return


async def _refill(running: Service) -> tuple[int, int]:
    """Hold all permits, release them by cancellations, and acquire them again.

    100 ms, the bound of lateness, lie between release and acquisition.

    Returns:
        Number of rounds in which a further request was refused while all permits were held; and
        number of requests refused after the release.
    """
    # Expensive requests, to keep their permits until they are cancelled.
    tasks = draw_tasks(TASKS, seed=4, prompts=(CHUNKS_PROMPTS,))
    copies, full, refused = iter(range(10**9)), 0, 0

    def request() -> pb.SegmentRequest:
        copy = next(copies)
        return tasks[copy % len(tasks)].request(copy)

    async with connections(running.gateway, 2 * PLACES) as stubs:
        for _ in tqdm(range(ROUNDS), desc="rounds"):
            leave_at = time.monotonic() + TAKEN_S
            first = [stub.Segment(request(), timeout=PATIENCE_S) for stub in stubs[:PLACES]]
            ends = [asyncio.ensure_future(_answer(call)) for call in first]
            await asyncio.sleep(TAKEN_S / 2)
            further = await send(stubs[-1], 0, request(), PATIENCE_S)
            full += further.message.startswith(FULL)
            await asyncio.sleep(max(0.0, leave_at - time.monotonic()))
            for call in first:
                call.cancel()
            await asyncio.sleep(LATE_S)
            second = [send(stub, 0, request(), TAKEN_S) for stub in stubs[PLACES:]]
            for outcome in await asyncio.gather(*second):
                refused += outcome.message.startswith(FULL)
            await asyncio.gather(*ends)
            await asyncio.sleep(LATE_S)
    return full, refused


def ended_at(log: str) -> dict[str, tuple[float, str]]:
    """Parse the end and status of each named request from the gateway's log.

    Args:
        log: of the gateway, whose lines begin with local time in milliseconds.

    Returns:
        Seconds since the epoch and the status, by request id.
    """
    return {
        line["id"]: (
            time.mktime(time.strptime(line["date"], "%Y-%m-%d %H:%M:%S")) + int(line["ms"]) / 1e3,
            line["status"],
        )
        for line in LOGGED.finditer(log)
    }
