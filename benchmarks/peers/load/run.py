"""Run a workload against connections: times, or the masks themselves."""

from __future__ import annotations

import math
from typing import Final

from benchmarks.peers.load.drive import Connect, Sample, closed_loop, open_loop
from benchmarks.peers.load.masks import counts_of
from benchmarks.peers.load.workloads import Workload, first_requests, requests_of

__all__ = ["MIN_ARRIVALS", "drive", "masks", "prime"]

MIN_ARRIVALS: Final = 10


def prime(connect: Connect, workload: Workload) -> None:
    """Make a workload's repeated images known."""
    with connect() as send:
        for request in first_requests(workload):
            send(request)


def drive(connect: Connect, workload: Workload, rate: float = 0.0) -> list[Sample]:
    """Send a workload's requests, whose images `prime` has made known.

    Args:
        connect: to the system.
        workload: to send.
        rate: mean arrivals a second of an open loop; 0 for a closed loop.
    """
    if not rate:
        return closed_loop(connect, requests_of(workload), workload.clients)
    total = max(MIN_ARRIVALS, math.ceil(rate * workload.seconds))
    return open_loop(connect, requests_of(workload, total), rate)


def masks(connect: Connect, workload: Workload) -> list[list[bytes]]:
    """Return COCO run lengths of the masks of each request, in order."""
    prime(connect, workload)
    with connect() as send:
        return [[counts_of(mask) for mask in send(request)] for request in requests_of(workload)]
