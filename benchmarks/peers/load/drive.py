"""Load generators with threads: closed loop, and open loop with Poisson arrivals.

`benchmarks.serving.load` speaks gRPC alone; here a system is any function that answers a request.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from time import perf_counter, sleep
from typing import Final, TypeAlias

from benchmarks.peers.load.masks import Mask
from benchmarks.peers.load.workloads import Request

__all__ = ["Connect", "Sample", "Send", "closed_loop", "open_loop"]

Send: TypeAlias = Callable[[Request], Sequence[Mask]]
Connect: TypeAlias = Callable[[], AbstractContextManager[Send]]
"""Opens a connection of its own for a client."""
OPEN_CLIENTS: Final = 32
"""Connections of an open loop; a request that finds none free waits, and its time counts."""


@dataclass(frozen=True)
class Sample:
    """Time of a request.

    Attributes:
        at_s: when it was sent, or due in an open loop, since the start of the workload.
        seconds: until the answer.
        status: `OK`, or the name of the error.
    """

    at_s: float
    seconds: float
    status: str = "OK"


def closed_loop(connect: Connect, requests: Sequence[Request], clients: int) -> list[Sample]:
    """Send requests by clients that each have one in flight.

    Args:
        connect: makes a client's connection, before the first request is sent.
        requests: taken in order by whichever client is free.
        clients: number of threads.
    """
    numbers = count()
    started: list[float] = []
    ready = threading.Barrier(clients, action=lambda: started.append(perf_counter()))

    def client(_: int) -> list[Sample]:
        samples = []
        with connect() as send:
            ready.wait()
            while (number := next(numbers)) < len(requests):
                samples.append(_send(send, requests[number], started[0], perf_counter()))
        return samples

    with ThreadPoolExecutor(clients) as pool:
        return [sample for samples in pool.map(client, range(clients)) for sample in samples]


def open_loop(
    connect: Connect, requests: Sequence[Request], rate: float, seed: int = 0
) -> list[Sample]:
    """Send requests as a Poisson process, whether or not earlier ones were answered.

    A request's time counts from when it was due, so that a system that is late for one is charged
    for those that wait behind it (coordinated omission).

    Args:
        connect: makes a connection.
        requests: in the order of their arrival.
        rate: mean arrivals a second.
        seed: of the moments.
    """
    due = _arrivals(len(requests), rate, seed)
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    clients = min(OPEN_CLIENTS, len(requests))
    ready = threading.Barrier(clients + 1)
    started: list[float] = []

    def client(_: int) -> list[Sample]:
        samples = []
        with connect() as send:
            ready.wait()
            while (number := waiting.get()) is not None:
                moment = started[0] + due[number]
                samples.append(_send(send, requests[number], started[0], moment))
        return samples

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(client, number) for number in range(clients)]
        started.append(perf_counter() + 0.01)
        ready.wait()
        for number, moment in enumerate(due):
            sleep(max(0.0, started[0] + moment - perf_counter()))
            waiting.put(number)
        for _ in range(clients):
            waiting.put(None)
        return [sample for future in futures for sample in future.result()]


def _arrivals(total: int, rate: float, seed: int) -> list[float]:
    """Moments of arrivals in seconds, the first at 0."""
    rng, moment, moments = random.Random(seed), 0.0, []
    for _ in range(total):
        moments.append(moment)
        moment += rng.expovariate(rate)
    return moments


def _send(send: Send, request: Request, started: float, since: float) -> Sample:
    status = "OK"
    try:
        send(request)
    except Exception as error:  # the clients of three libraries share no base class
        status = str(getattr(error, "status", type(error).__name__))
    return Sample(since - started, perf_counter() - since, status)
