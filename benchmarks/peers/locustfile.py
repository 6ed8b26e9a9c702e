"""Locust's user of the gateway: the workload of the benchmark, by another load generator.

The environment names the gateway (PEERS_GATEWAY), the workload as JSON (PEERS_WORKLOAD) and the
number of the first request (PEERS_FIRST).
"""

from __future__ import annotations

import itertools
import json
import os
import time

import grpc.experimental.gevent
from locust import User, constant, task

from benchmarks.peers.load.workloads import Workload, requests_of
from benchmarks.peers.systems.clients import gateway

# Calls of gRPC would block all of Locust's green threads otherwise.
grpc.experimental.gevent.init_gevent()

WORKLOAD = Workload(**json.loads(os.environ["PEERS_WORKLOAD"]))
# The images are made here, before the time is taken.
requests_of(WORKLOAD, 1)
NUMBERS = itertools.count(int(os.environ["PEERS_FIRST"]))


class GatewayUser(User):  # type: ignore[misc]
    """A client with one request in flight and no pause between two."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect by a socket of its own."""
        self._connection = gateway(os.environ["PEERS_GATEWAY"])
        self._send = self._connection.__enter__()

    def on_stop(self) -> None:
        """Close the connection."""
        self._connection.__exit__(None, None, None)

    @task  # type: ignore[untyped-decorator]
    def segment(self) -> None:
        """Send the next request and report its time."""
        (request,) = requests_of(WORKLOAD, 1, start=next(NUMBERS))
        error: Exception | None = None
        started = time.perf_counter()
        try:
            self._send(request)
        except Exception as caught:  # reported, as Locust does for its own clients
            error = caught
        self.environment.events.request.fire(
            request_type="gRPC",
            name="Segment",
            response_time=1000 * (time.perf_counter() - started),
            response_length=0,
            exception=error,
            context={},
        )
