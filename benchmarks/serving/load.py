"""Load generators: closed loop (a request per client) and open loop (Poisson arrivals)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final

import grpc
import numpy as np

from cpcsam.errors import ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

__all__ = [
    "REFUSED",
    "Outcome",
    "answered",
    "arriving",
    "send",
    "connections",
    "percentiles",
    "rate",
    "repeating",
    "statuses",
]

# Connections to one address share a socket otherwise, and the gateway takes them for one client.
APART: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
REFUSED: Final = "RESOURCE_EXHAUSTED"
PUSHBACK: Final = "grpc-retry-pushback-ms"
Draw = Callable[[int], tuple[int, pb.SegmentRequest]]
"""Draws the next request of a client, with a label for its outcome."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a request.

    Attributes:
        label: as drawn.
        sent_at: seconds since the epoch.
        seconds: until the answer.
        status: name of the gRPC status.
        message: details of the status.
        response: None after an error.
        retry_s: seconds that a refusal asks to wait, 0 without.
    """

    label: int
    sent_at: float
    seconds: float
    status: str
    message: str
    response: pb.SegmentResponse | None
    retry_s: float = 0.0


@asynccontextmanager
async def connections(address: str, count: int) -> AsyncIterator[list[Any]]:
    """Open stubs with a connection each, and close them after the block."""
    async with AsyncExitStack() as stack:
        yield [
            pb_grpc.SegmentationStub(  # type: ignore[no-untyped-call]
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options=APART))
            )
            for _ in range(count)
        ]


async def send(
    stub: Any,
    label: int,
    request: pb.SegmentRequest,
    timeout_s: float,
    metadata: Sequence[tuple[str, str]] = (),
) -> Outcome:
    """Send a request and wait for its outcome."""
    sent_at, started = time(), monotonic()
    status, message, response, retry_s = "OK", "", None, 0.0
    try:
        response = await stub.Segment(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        status, message = error.code().name, error.details() or ""
        retry_s = float(dict(error.trailing_metadata() or ()).get(PUSHBACK, 0)) / 1e3
    return Outcome(label, sent_at, monotonic() - started, status, message, response, retry_s)


async def answered(stub: Any, label: int, request: pb.SegmentRequest, timeout_s: float) -> Outcome:
    """Send a request as `send`, one that the service has no reason to refuse.

    Raises:
        ServingError: it was not answered.
    """
    outcome = await send(stub, label, request, timeout_s)
    if outcome.response is None:
        raise ServingError.of(
            "a request alone",
            got=f"{outcome.status}, {outcome.message}",
            expected="an answer",
            fix="see the service's log",
        )
    return outcome


async def repeating(
    stubs: Sequence[Any], draw: Draw, seconds: float, timeout_s: float, *, patient: bool = False
) -> list[Outcome]:
    """Closed loop: a client per stub, each with one request in flight.

    Args:
        stubs: one for each client.
        draw: draws a client's next request.
        seconds: duration.
        timeout_s: of each request.
        patient: wait after a refusal as long as it asks.
    """
    until = monotonic() + seconds

    async def client(number: int) -> list[Outcome]:
        outcomes = []
        while monotonic() < until:
            outcomes.append(await send(stubs[number], *draw(number), timeout_s))
            if patient:
                await asyncio.sleep(outcomes[-1].retry_s)
        return outcomes

    lists = await asyncio.gather(*map(client, range(len(stubs))))
    return [outcome for outcomes in lists for outcome in outcomes]


async def arriving(
    stubs: Sequence[Any], draw: Draw, rate: float, seconds: float, timeout_s: float, seed: int = 0
) -> list[Outcome]:
    """Open loop: requests arrive as a Poisson process, whether or not others were answered.

    Args:
        stubs: take turns.
        draw: draws the next request.
        rate: mean requests a second.
        seconds: duration of the arrivals.
        timeout_s: of each.
        seed: of the moments.
    """
    rng = random.Random(seed)
    started, due = monotonic(), 0.0
    running: list[asyncio.Task[Outcome]] = []
    while due < seconds:
        # Measured from the start: lateness of one arrival must not delay the next ones.
        await asyncio.sleep(max(0.0, started + due - monotonic()))
        number = len(running) % len(stubs)
        running.append(asyncio.create_task(send(stubs[number], *draw(number), timeout_s)))
        due += rng.expovariate(rate)
    return await asyncio.gather(*running)


def rate(outcomes: Sequence[Outcome]) -> float:
    """Throughput: successful answers a second, from the first request to the last answer."""
    begun = min(outcome.sent_at for outcome in outcomes)
    ended = max(outcome.sent_at + outcome.seconds for outcome in outcomes)
    return sum(outcome.status == "OK" for outcome in outcomes) / (ended - begun)


def statuses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Count outcomes by status, the most frequent first."""
    return dict(Counter(outcome.status for outcome in outcomes).most_common())


def percentiles(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """p50, p90, p99 and maximum of values."""
    quantiles = np.percentile(values, [50, 90, 99, 100])
    return {
        name: round(float(value), digits)
        for name, value in zip(("p50", "p90", "p99", "max"), quantiles, strict=True)
    }
