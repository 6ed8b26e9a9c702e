"""Places are bounded, waiting is bounded, and nobody is crowded out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest
from google.rpc import error_details_pb2, status_pb2

from cpcsam.errors import ContractError
from cpcsam.grpc_errors import FullError, UnavailableError
from serving.gateway.error_details import trailing_metadata
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit


class Desk:
    """An admission whose requests hold their slot until they are told to go on."""

    def __init__(self, **limits: float) -> None:
        self.metrics = Metrics()
        self.admission = Admission(Limits(**limits), self.metrics)  # type: ignore[arg-type]
        self.gate = asyncio.Event()
        self.served: list[str] = []

    def request(self, client: str) -> asyncio.Task[None]:
        return asyncio.create_task(self._request(client))

    async def _request(self, client: str) -> None:
        permit = Permit(client)
        with self.admission.try_acquire(permit):
            release = await self.admission.acquire(permit)
            self.served.append(client)
            try:
                await self.gate.wait()
            finally:
                release()

    @property
    def in_flight(self) -> float | None:
        return self.metrics.registry.get_sample_value("cpcsam_in_flight_requests")


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def outcomes(*tasks: Awaitable[None]) -> list[type[BaseException] | None]:
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [None if result is None else type(result) for result in results]


async def test_try_acquire_beyond_the_limit_is_refused_at_once() -> None:
    desk = Desk(max_in_flight=2, max_concurrent=1)
    first, second = desk.request("a"), desk.request("a")
    await settle()
    with pytest.raises(FullError, match="requests in flight: got 2 already, expected fewer than 2"):
        await asyncio.wait_for(desk.request("a"), 1)
    desk.gate.set()
    assert await outcomes(first, second) == [None, None]
    assert desk.in_flight == 0


async def test_acquire_after_the_queue_limit_is_refused_with_a_retry_delay() -> None:
    desk = Desk(max_concurrent=1, max_queue_s=0.05)
    first = desk.request("a")
    await settle()
    started = time.monotonic()
    with pytest.raises(
        FullError, match=r"queue: got no turn within 0\.0\S+ s, expected 0.05 s"
    ) as full:
        await desk.request("b")
    assert 0.04 < time.monotonic() - started < 0.5
    assert 0 < full.value.retry_s <= 0.1
    desk.gate.set()
    assert await outcomes(first) == [None]
    assert await outcomes(desk.request("b")) == [None]


async def test_try_acquire_when_full_drops_a_waiting_request_of_the_largest_client() -> None:
    desk = Desk(max_in_flight=4, max_concurrent=1)
    greedy = [desk.request("greedy") for _ in range(4)]
    await settle()
    modest = desk.request("modest")
    await settle()
    assert greedy[-1].done() and desk.in_flight == 4
    desk.gate.set()
    assert await outcomes(*greedy, modest) == [None, None, None, FullError, None]
    assert desk.served == ["greedy", "modest", "greedy", "greedy"]


async def test_try_acquire_when_full_drops_no_request_of_an_equal_client() -> None:
    desk = Desk(max_in_flight=4, max_concurrent=1)
    requests = [desk.request(client) for client in "aabb"]
    await settle()
    newcomers = [desk.request(client) for client in "ab"]
    await settle()
    desk.gate.set()
    assert await outcomes(*requests, *newcomers) == [None] * 4 + [FullError] * 2
    third = Desk(max_in_flight=4, max_concurrent=1)
    requests = [third.request(client) for client in "aabb"]
    await settle()
    newcomer = third.request("c")
    await settle()
    third.gate.set()
    assert (await outcomes(*requests)).count(FullError) == 1
    assert await outcomes(newcomer) == [None]


async def test_try_acquire_when_full_drops_no_running_request() -> None:
    desk = Desk(max_in_flight=2, max_concurrent=2)
    begun = [desk.request("greedy") for _ in range(2)]
    await settle()
    assert await outcomes(desk.request("modest")) == [FullError]
    desk.gate.set()
    assert await outcomes(*begun) == [None, None]


async def test_try_acquire_after_cancellation_succeeds() -> None:
    desk = Desk(max_in_flight=2, max_concurrent=1)
    working, waiting = desk.request("a"), desk.request("a")
    await settle()
    for task in (working, waiting):
        task.cancel()
    await settle()
    assert desk.in_flight == 0
    desk.gate.set()
    assert await outcomes(desk.request("a"), desk.request("a")) == [None, None]


async def test_acquire_of_a_further_turn_ignores_the_queue_limit() -> None:
    desk = Desk(max_concurrent=1, max_queue_s=0.02)
    permit = Permit("a")
    (await desk.admission.acquire(permit))()
    other = desk.request("b")
    await settle()
    waiting = asyncio.create_task(desk.admission.acquire(permit))
    await asyncio.sleep(0.06)
    assert not waiting.done()
    desk.gate.set()
    (await waiting)()
    assert await outcomes(other) == [None]


def test_trailing_metadata_carries_error_details() -> None:
    full = FullError("queue: got x, expected y; z")
    full.retry_s = 0.25
    metadata = dict(trailing_metadata(full))
    assert metadata["grpc-retry-pushback-ms"] == "250"
    status = status_pb2.Status.FromString(bytes(metadata["grpc-status-details-bin"]))
    assert (status.code, status.message) == (8, str(full))
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry) and retry.retry_delay.ToMilliseconds() == 250

    wrong = dict(trailing_metadata(ContractError("prompts[0].box: got x, expected y; z")))
    assert "grpc-retry-pushback-ms" not in wrong
    status = status_pb2.Status.FromString(bytes(wrong["grpc-status-details-bin"]))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info) and status.details[1].Unpack(bad)
    assert (info.reason, bad.field_violations[0].field) == ("CONTRACT", "prompts[0].box")
    assert bad.field_violations[0].description == "got x, expected y; z"

    away = dict(trailing_metadata(UnavailableError("a: b")))
    status = status_pb2.Status.FromString(bytes(away["grpc-status-details-bin"]))
    assert (status.code, len(status.details)) == (14, 1)


async def test_acquire_with_a_slow_triton_limits_concurrent_calls() -> None:
    """Each call takes 0.1 s of it, however many there are: two fit into 0.4 of 0.5 s."""
    admission = Admission(Limits(max_concurrent=8, max_queue_s=0.5), Metrics())
    triton, at_once = asyncio.Lock(), 0
    most: list[int] = []

    async def request(client: str) -> None:
        nonlocal at_once
        permit = Permit(client)
        with admission.try_acquire(permit):
            release = await admission.acquire(permit)
            at_once += 1
            most.append(at_once)
            async with triton:
                await asyncio.sleep(0.1)
            at_once -= 1
            release()

    async def ask_again(client: str) -> None:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            try:
                await request(client)
            except FullError:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(ask_again(f"client-{number}") for number in range(12)))
    assert max(most[:8]) == 8 and max(most[-8:]) <= 3
