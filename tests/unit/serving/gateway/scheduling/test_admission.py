"""Admission control: bounded requests in flight, bounded waiting, fairness between clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest

from cpcsam.grpc_errors import FullError
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit

pytestmark = pytest.mark.usefixtures("simulated_time")


class AdmissionHarness:
    """Admission whose requests hold their permit until `gate` opens."""

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
    harness = AdmissionHarness(max_in_flight=2, max_concurrent=1)
    first, second = harness.request("a"), harness.request("a")
    await settle()
    with pytest.raises(FullError, match="requests in flight: got 2 already, expected fewer than 2"):
        await asyncio.wait_for(harness.request("a"), 1)
    harness.gate.set()
    assert await outcomes(first, second) == [None, None]
    assert harness.in_flight == 0


async def test_acquire_after_the_queue_limit_is_refused_with_a_retry_delay() -> None:
    harness = AdmissionHarness(max_concurrent=1, max_queue_s=0.05)
    first = harness.request("a")
    await settle()
    started = time.monotonic()
    with pytest.raises(
        FullError, match=r"queue: got no turn within 0\.0\S+ s, expected 0.05 s"
    ) as full:
        await harness.request("b")
    assert time.monotonic() - started == pytest.approx(0.05, abs=0.001)
    assert 0 < full.value.retry_s <= 0.1
    harness.gate.set()
    assert await outcomes(first) == [None]
    assert await outcomes(harness.request("b")) == [None]


async def test_try_acquire_when_full_drops_a_waiting_request_of_the_largest_client() -> None:
    harness = AdmissionHarness(max_in_flight=4, max_concurrent=1)
    greedy = [harness.request("greedy") for _ in range(4)]
    await settle()
    modest = harness.request("modest")
    await settle()
    assert greedy[-1].done() and harness.in_flight == 4
    harness.gate.set()
    assert await outcomes(*greedy, modest) == [None, None, None, FullError, None]
    assert harness.served == ["greedy", "modest", "greedy", "greedy"]


async def test_try_acquire_when_full_drops_no_request_of_an_equal_client() -> None:
    harness = AdmissionHarness(max_in_flight=4, max_concurrent=1)
    requests = [harness.request(client) for client in "aabb"]
    await settle()
    newcomers = [harness.request(client) for client in "ab"]
    await settle()
    harness.gate.set()
    assert await outcomes(*requests, *newcomers) == [None] * 4 + [FullError] * 2
    third = AdmissionHarness(max_in_flight=4, max_concurrent=1)
    requests = [third.request(client) for client in "aabb"]
    await settle()
    newcomer = third.request("c")
    await settle()
    third.gate.set()
    assert (await outcomes(*requests)).count(FullError) == 1
    assert await outcomes(newcomer) == [None]


async def test_try_acquire_when_full_drops_no_running_request() -> None:
    harness = AdmissionHarness(max_in_flight=2, max_concurrent=2)
    running = [harness.request("greedy") for _ in range(2)]
    await settle()
    assert await outcomes(harness.request("modest")) == [FullError]
    harness.gate.set()
    assert await outcomes(*running) == [None, None]


async def test_try_acquire_after_cancellation_succeeds() -> None:
    harness = AdmissionHarness(max_in_flight=2, max_concurrent=1)
    working, waiting = harness.request("a"), harness.request("a")
    await settle()
    for task in (working, waiting):
        task.cancel()
    await settle()
    assert harness.in_flight == 0
    harness.gate.set()
    assert await outcomes(harness.request("a"), harness.request("a")) == [None, None]


async def test_acquire_of_a_further_turn_ignores_the_queue_limit() -> None:
    harness = AdmissionHarness(max_concurrent=1, max_queue_s=0.02)
    permit = Permit("a")
    (await harness.admission.acquire(permit))()
    other = harness.request("b")
    await settle()
    waiting = asyncio.create_task(harness.admission.acquire(permit))
    await asyncio.sleep(0.06)
    assert not waiting.done()
    harness.gate.set()
    (await waiting)()
    assert await outcomes(other) == [None]


async def test_acquire_with_a_slow_triton_limits_concurrent_calls() -> None:
    """Each call takes 0.1 s of it, however many there are: two fit into a tenth of 2 s."""
    admission = Admission(Limits(max_concurrent=8, max_queue_s=2), Metrics())
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

    async def keep_requesting(client: str) -> None:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            try:
                await request(client)
            except FullError:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(keep_requesting(f"client-{number}") for number in range(12)))
    assert max(most[:8]) == 8 and max(most[-8:]) <= 3
