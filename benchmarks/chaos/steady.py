"""Constant load of a few clients beside a watch of health, and what both saw of a fault."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from time import time
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.serving.load import Outcome, send
from benchmarks.serving.tasks import Task, draw_tasks
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.health import SERVICE

__all__ = ["FAILED", "Health", "Observation", "SteadyLoad", "channel_options"]

CLIENTS: Final = 8
TASKS: Final = 32
MAX_PROMPTS: Final = (1, 1, 2, 3, 6)
TIMEOUT_S: Final = 10.0
PAUSE_S: Final = 0.05
"""Of a client after a failure, so that retries leave the cores to what is being repaired."""
HEALTH_PERIOD_S: Final = 0.1
SERVING: Final = "SERVING"
FAILED: Final = "no answer"
"""State of health that could not be asked for."""


@dataclass(frozen=True)
class Health:
    """An answer of the health service.

    Attributes:
        at: seconds since the epoch.
        status: SERVING, NOT_SERVING or `FAILED`.
    """

    at: float
    status: str


def channel_options() -> tuple[tuple[str, int], ...]:
    """Options of a channel of one connection that returns to a restarted server at once."""
    return (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    )


@dataclass
class Observation:
    """What clients saw before and after a fault.

    Attributes:
        fault_at: moment of the fault, seconds since the epoch.
        outcomes: of all requests, by the time of their end.
        health: answers of the health service, in order.
    """

    fault_at: float = math.inf
    outcomes: list[Outcome] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)

    def failures(self) -> list[Outcome]:
        """Requests that ended after the fault without a response."""
        return [
            outcome
            for outcome in self.outcomes
            if outcome.status != "OK" and _end(outcome) >= self.fault_at
        ]

    def failed_by_status(self) -> dict[str, int]:
        """Number of failures by gRPC status."""
        return dict(Counter(outcome.status for outcome in self.failures()).most_common())

    def healthy_after_s(self) -> float:
        """Seconds from the fault until the service was whole again.

        It is whole at the end of the first request that succeeds and was sent when the last request
        that failed had been sent and the last answer of health other than SERVING had come.

        Returns:
            Infinity if that never came.
        """
        unwell = [
            self.fault_at,
            *(outcome.sent_at for outcome in self.failures()),
            *(
                health.at
                for health in self.health
                if health.at >= self.fault_at and health.status != SERVING
            ),
        ]
        good = [
            _end(outcome)
            for outcome in self.outcomes
            if outcome.status == "OK" and outcome.sent_at > max(unwell)
        ]
        return min(good, default=math.inf) - self.fault_at

    def quiet_s(self, now: float) -> float:
        """Seconds for which requests have succeeded without a failure; 0 if none has."""
        whole_at = self.fault_at + self.healthy_after_s()
        return max(0.0, now - whole_at)

    def falsely_serving_s(self) -> float:
        """Longest time for which health said SERVING while every request that ended failed."""
        longest = 0.0
        for begin, end in self._serving_spans():
            failing_since: float | None = None
            succeeded_at = max(begin, self.fault_at)
            for outcome in self.outcomes:
                ended = _end(outcome)
                if not begin <= ended <= end or ended < self.fault_at:
                    continue
                if outcome.status == "OK":
                    failing_since, succeeded_at = None, ended
                    continue
                if failing_since is None:
                    failing_since = max(outcome.sent_at, succeeded_at)
                longest = max(longest, ended - failing_since)
        return longest

    def _serving_spans(self) -> Iterator[tuple[float, float]]:
        """Spans from an answer SERVING to the next other answer."""
        begin: float | None = None
        for health in self.health:
            if health.status == SERVING:
                begin = health.at if begin is None else begin
            elif begin is not None:
                yield begin, health.at
                begin = None
        if begin is not None:
            yield begin, math.inf


class SteadyLoad:
    """Closed loop of clients, each with one request in flight, beside a poll of health.

    Use it as an asynchronous context manager; the load runs inside the block.

    Args:
        address: HOST:PORT of the gateway.
        clients: number of clients, each with a connection of its own.
        token: of all clients; None sends none.
        pause_s: of a client between an answer and its next request.
        asked: number of requests about each image.
    """

    def __init__(
        self,
        address: str,
        clients: int = CLIENTS,
        token: str | None = None,
        pause_s: float = 0.0,
        asked: int = 1,
    ) -> None:
        self.seen = Observation()
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._pause_s, self._asked = pause_s, asked
        self._address = address
        self._clients = clients
        self._tasks = draw_tasks(TASKS, seed=19, prompts=MAX_PROMPTS)
        self._copies = iter(range(10**9))
        self._running: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> SteadyLoad:
        """Start the clients."""
        channels = [
            await self._stack.enter_async_context(
                grpc.aio.insecure_channel(self._address, options=channel_options())
            )
            for _ in range(self._clients + 1)
        ]
        self._running = [
            asyncio.create_task(self._watch(channels[0])),
            *(asyncio.create_task(self._client(channel)) for channel in channels[1:]),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the clients and drop their requests in flight."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._stack.aclose()

    async def settle(self, seconds: float) -> Sequence[Outcome]:
        """Let the load run for a time, and return the outcomes of that time."""
        before = len(self.seen.outcomes)
        await asyncio.sleep(seconds)
        return self.seen.outcomes[before:]

    async def _client(self, channel: grpc.aio.Channel) -> None:
        stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
        while True:
            copy = next(self._copies) // self._asked
            request = self._task(copy).request(copy)
            outcome = await send(stub, copy, request, TIMEOUT_S, self._metadata)
            self.seen.outcomes.append(outcome)
            await asyncio.sleep(self._pause_s if outcome.status == "OK" else PAUSE_S)

    def _task(self, copy: int) -> Task:
        return self._tasks[copy % len(self._tasks)]

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        names = health_pb2.HealthCheckResponse.ServingStatus
        while True:
            status = FAILED
            with suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(request, timeout=1)
                status = names.Name(answer.status)
            self.seen.health.append(Health(time(), status))
            await asyncio.sleep(HEALTH_PERIOD_S)


def _end(outcome: Outcome) -> float:
    return outcome.sent_at + outcome.seconds
