"""Admission control: bounded requests in flight, bounded waiting, fairness between clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest

from cpcsam.entry_points import DECODE, ENCODE
from cpcsam.grpc_errors import FullError
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.call_times import CallKind


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
    assert 0.04 < time.monotonic() - started < 0.5
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

    async def keep_requesting(client: str) -> None:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            try:
                await request(client)
            except FullError:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(keep_requesting(f"client-{number}") for number in range(12)))
    assert max(most[:8]) == 8 and max(most[-8:]) <= 3


ENCODE_CALL, DECODE_CALL = CallKind(ENCODE.name), CallKind(DECODE.name, 1)


async def admission_that_knows(call_s: float, kind: CallKind, **limits: float) -> Admission:
    """Return an admission that has measured one call of a kind."""
    admission = Admission(Limits(**limits), Metrics())  # type: ignore[arg-type]
    release = await admission.acquire(Permit("first"), kind)
    await asyncio.sleep(call_s)
    release()
    return admission


async def test_claim_that_cannot_be_answered_in_time_is_refused_at_once() -> None:
    admission = await admission_that_knows(0.2, ENCODE_CALL)
    running = Permit("a")
    await admission.claim(running, {ENCODE_CALL: 1}, time.monotonic() + 1)
    release = await admission.acquire(running, ENCODE_CALL, time.monotonic() + 1)
    started = time.monotonic()
    with pytest.raises(FullError, match=r"deadline: got an answer in 0\.\d+ s") as full:
        await admission.claim(Permit("b"), {ENCODE_CALL: 1}, started + 0.3)
    assert time.monotonic() - started < 0.05 and full.value.retry_s >= 0.1
    await admission.claim(Permit("b"), {ENCODE_CALL: 1}, started + 60)
    release()


async def test_claim_of_many_calls_is_refused_where_one_is_admitted() -> None:
    admission = await admission_that_knows(0.1, DECODE_CALL)
    deadline = time.monotonic() + 2
    with pytest.raises(FullError, match="deadline"):
        await admission.claim(Permit("a"), {DECODE_CALL: 100}, deadline)
    await admission.claim(Permit("a"), {DECODE_CALL: 1}, deadline)


async def test_claim_of_a_click_does_not_count_images_ahead() -> None:
    admission = await admission_that_knows(0.2, ENCODE_CALL)
    (await admission.acquire(Permit("first"), DECODE_CALL))()
    await admission.claim(Permit("images"), {ENCODE_CALL: 100}, time.monotonic() + 90)
    await admission.claim(Permit("click"), {DECODE_CALL: 1}, time.monotonic() + 0.5)


async def test_claim_of_a_client_counts_as_much_of_others_as_of_its_own() -> None:
    admission = await admission_that_knows(0.1, DECODE_CALL)
    large, deadline = Permit("large"), time.monotonic() + 60
    with admission.try_acquire(large):
        await admission.claim(large, {DECODE_CALL: 100}, deadline)
        await admission.claim(Permit("small"), {DECODE_CALL: 1}, time.monotonic() + 1)
        with pytest.raises(FullError):
            await admission.claim(Permit("large"), {DECODE_CALL: 1}, time.monotonic() + 1)
    await admission.claim(Permit("large"), {DECODE_CALL: 1}, time.monotonic() + 1)


async def test_acquire_of_a_call_that_would_be_late_is_refused_instead_of_sent() -> None:
    admission = await admission_that_knows(0.2, DECODE_CALL)
    with pytest.raises(FullError, match="deadline"):
        await admission.acquire(Permit("a"), DECODE_CALL, time.monotonic() + 0.1)
    (await admission.acquire(Permit("a"), DECODE_CALL, time.monotonic() + 9))()


async def test_claim_before_any_call_was_measured_waits_for_the_first() -> None:
    admission = Admission(Limits(), Metrics())
    release = await admission.acquire(Permit("a"), ENCODE_CALL)
    claims = [
        asyncio.create_task(admission.claim(Permit(name), {ENCODE_CALL: 1}, time.monotonic() + 60))
        for name in "bc"
    ]
    await settle()
    assert not any(claim.done() for claim in claims)
    release()
    await asyncio.wait_for(asyncio.gather(*claims), 1)


async def test_enter_of_a_patient_request_waits_for_a_place_in_turn() -> None:
    admission, order = Admission(Limits(max_in_flight=1), Metrics()), []

    async def request(client: str) -> None:
        async with admission.enter(Permit(client, is_patient=True)):
            order.append(client)
            await settle()

    await asyncio.wait_for(asyncio.gather(*map(request, "aab")), 1)
    assert order == ["a", "b", "a"]


async def test_claim_of_a_patient_request_waits_until_it_can_be_answered() -> None:
    admission = await admission_that_knows(0.3, ENCODE_CALL)
    release = await admission.acquire(Permit("a"), ENCODE_CALL)
    deadline = time.monotonic() + 0.6
    patient = Permit("b", is_patient=True)
    claim = asyncio.create_task(admission.claim(patient, {ENCODE_CALL: 1}, deadline))
    await settle()
    assert patient.is_waiting
    release()
    await asyncio.wait_for(claim, 1)
    with pytest.raises(FullError):  # it could not even be answered alone
        await admission.claim(Permit("c", is_patient=True), {ENCODE_CALL: 9}, deadline)


async def test_overload_with_short_deadlines_is_answered_in_time() -> None:
    """Each call takes 0.05 s of Triton; 24 clients ask for twice what it can answer in time."""
    admission, triton = Admission(Limits(), Metrics()), asyncio.Lock()
    in_time, sent = 0, 0

    async def request(client: str) -> None:
        nonlocal in_time, sent
        permit, deadline = Permit(client), time.monotonic() + 0.6
        with admission.try_acquire(permit):
            await admission.claim(permit, {ENCODE_CALL: 1}, deadline)
            release = await admission.acquire(permit, ENCODE_CALL, deadline)
            async with triton:
                sent += 1
                await asyncio.sleep(0.05)
            release()
            in_time += time.monotonic() <= deadline

    async def keep_requesting(client: str, until: float) -> None:
        while time.monotonic() < until:
            try:
                await request(client)
            except FullError as full:
                await asyncio.sleep(full.retry_s)

    until = time.monotonic() + 4
    await asyncio.gather(*(keep_requesting(f"client-{number}", until) for number in range(24)))
    assert sent > 20 and in_time > 0.9 * sent
