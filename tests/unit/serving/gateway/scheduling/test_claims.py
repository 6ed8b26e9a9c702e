"""Claims of Triton's time: who cannot be answered in time is refused, or waits if patient."""

from __future__ import annotations

import asyncio
import time

import pytest

from cpcsam.entry_points import DECODE, ENCODE
from cpcsam.grpc_errors import FullError, UnavailableError
from serving.gateway.limits import Limits
from serving.gateway.metrics import Metrics
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.call_times import CallKind
from serving.gateway.scheduling.refusals import Refusals

pytestmark = pytest.mark.usefixtures("simulated_time")

ENCODE_CALL, DECODE_CALL = CallKind(ENCODE.name), CallKind(DECODE.name, 1)


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


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
    refused = asyncio.ensure_future(admission.claim(Permit("b"), {ENCODE_CALL: 1}, started + 0.3))
    for _ in range(10):  # turns of the loop, in which no time passes
        await asyncio.sleep(0)
    assert refused.done()
    with pytest.raises(FullError, match=r"deadline: got an answer in up to 0\.\d+ s") as full:
        await refused
    assert full.value.retry_s >= 0.1
    await admission.claim(Permit("b"), {ENCODE_CALL: 1}, started + 60)
    release()


async def test_claim_of_many_calls_is_refused_where_one_is_admitted() -> None:
    admission = await admission_that_knows(0.1, DECODE_CALL)
    deadline = time.monotonic() + 2
    with pytest.raises(FullError, match=r"calls that take about 10 s .* 2 s; allow more"):
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
    (await admission.acquire(Permit("a"), DECODE_CALL))()
    with pytest.raises(FullError):  # of what is known, it is too late already
        await admission.claim(Permit("d"), {ENCODE_CALL: 1, DECODE_CALL: 1}, time.monotonic() - 1)
    release()
    await asyncio.wait_for(asyncio.gather(*claims), 1)


async def test_claim_of_a_patient_request_outlasts_a_first_call_of_any_length() -> None:
    admission = Admission(Limits(), Metrics())
    release = await admission.acquire(Permit("a"), ENCODE_CALL)
    patient, deadline = Permit("a", is_patient=True), time.monotonic() + 60
    claim = asyncio.create_task(admission.claim(patient, {ENCODE_CALL: 1}, deadline))
    await asyncio.sleep(2 * Limits().max_queue_s)
    assert not claim.done()
    release()
    await claim


async def test_request_that_is_dropped_as_its_wait_ends_does_not_go_on() -> None:
    admission = await admission_that_knows(2.0, DECODE_CALL, max_in_flight=2)
    running, waiting = Permit("greedy"), Permit("greedy", is_patient=True)
    ends, leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with admission.enter(running):
            release = await admission.acquire(running, DECODE_CALL)
            await ends.wait()
            release(is_answered=None)
            await leave.wait()

    async def second() -> None:
        async with admission.enter(waiting):
            await admission.claim(waiting, {DECODE_CALL: 3}, time.monotonic() + 8)

    async def newcomer() -> None:
        with admission.try_acquire(Permit("modest")):
            await leave.wait()

    tasks = [asyncio.create_task(first())]
    await settle()
    dropped = asyncio.create_task(second())
    await settle()
    assert waiting.is_waiting
    ends.set()  # wakes it in the turn of the loop in which the newcomer takes its place
    tasks.append(asyncio.create_task(newcomer()))
    with pytest.raises(FullError, match="no turn in time"):
        await dropped
    assert waiting.is_dropped
    leave.set()
    await asyncio.gather(*tasks)
    assert not admission._is_busy


async def test_further_claims_of_an_accepted_request_are_judged_by_its_deadline_alone() -> None:
    admission = await admission_that_knows(0.3, ENCODE_CALL)
    permit, deadline = Permit("a"), time.monotonic() + 60
    await admission.claim(permit, {ENCODE_CALL: 12}, deadline)
    await admission.claim(permit, {ENCODE_CALL: 12}, deadline)
    with pytest.raises(FullError, match="deadline"):
        await admission.claim(permit, {ENCODE_CALL: 1000}, deadline)
    admission.give_up(permit, ENCODE_CALL)
    assert not admission._is_busy


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


async def test_claim_of_a_patient_request_whose_place_is_taken_is_refused() -> None:
    admission = await admission_that_knows(0.3, ENCODE_CALL, max_in_flight=2)
    permits = [Permit("greedy", is_patient=True) for _ in range(2)]

    async def request(permit: Permit) -> None:
        async with admission.enter(permit):
            await admission.claim(permit, {ENCODE_CALL: 1}, time.monotonic() + 0.5)
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(request(permit)) for permit in permits]
    await settle()
    assert permits[1].is_waiting
    with admission.try_acquire(Permit("modest")):
        with pytest.raises(FullError):
            await tasks[1]
    assert permits[1].is_dropped
    tasks[0].cancel()
    await asyncio.wait(tasks)


def test_refusals_ask_for_retries_one_after_another() -> None:
    refusals = Refusals(max_retry_s=1.0, is_answering=lambda: True)
    asked = [refusals.full("x", got="y", expected="z", cost_s=0.2).retry_s for _ in range(9)]
    assert asked[:4] == pytest.approx([0.1, 0.3, 0.5, 0.7], abs=0.05)
    assert max(asked) == 1.0


async def test_claim_while_a_call_gets_no_answer_is_refused_as_unavailable() -> None:
    admission = await admission_that_knows(0.05, ENCODE_CALL)
    stuck = await admission.acquire(Permit("a"), ENCODE_CALL)
    await asyncio.sleep(1.1)
    with pytest.raises(UnavailableError, match="inference server: got no answer"):
        await admission.claim(Permit("b"), {ENCODE_CALL: 1}, time.monotonic() + 0.1)
    # Of a step that died nobody knows yet, so a call with time enough waits for what comes.
    await admission.claim(Permit("b"), {ENCODE_CALL: 1}, time.monotonic() + 4)
    stuck(is_answered=None)
    await admission.claim(Permit("c"), {ENCODE_CALL: 1}, time.monotonic() + 4)


async def test_refusals_while_triton_is_down_are_unavailable() -> None:
    admission = await admission_that_knows(0.2, ENCODE_CALL, max_in_flight=1)
    is_gone = True
    admission.follow(lambda: is_gone)
    with admission.try_acquire(Permit("a")):
        for kind in (UnavailableError, FullError):
            with pytest.raises(kind), admission.try_acquire(Permit("b")):
                pass
            with pytest.raises(kind):
                await admission.claim(Permit("b"), {ENCODE_CALL: 9}, time.monotonic() + 0.5)
            with pytest.raises(kind):
                await admission.acquire(Permit("b"), ENCODE_CALL, time.monotonic() + 0.1)
            is_gone = False


async def test_claim_ignores_a_slow_call_that_others_overtake() -> None:
    admission = await admission_that_knows(0.05, ENCODE_CALL)
    slow = await admission.acquire(Permit("a"), ENCODE_CALL)
    quick = await admission.acquire(Permit("b"), ENCODE_CALL)
    await asyncio.sleep(0.1)
    quick()
    await asyncio.sleep(0.4)
    await admission.claim(Permit("c"), {ENCODE_CALL: 1}, time.monotonic() + 0.4)
    slow()
