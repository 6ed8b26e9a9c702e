"""Single-flight: shared computations, errors and cancellation."""

from __future__ import annotations

import asyncio

import pytest

from cpcsam.errors import ContractError
from cpcsam.grpc_errors import DeadlineError
from serving.gateway.inference.single_flight import SingleFlight


class Computation:
    """Counts its starts; ends when `gate` opens."""

    def __init__(self, *outcomes: int | Exception) -> None:
        self.outcomes = list(outcomes)
        self.begun = self.broken_off = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        outcome = self.outcomes.pop(0)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_run_of_concurrent_requests_shares_one_computation() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(1, 2)
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(5)]
    await settle()
    assert flights.is_running("a") and not flights.is_running("b")
    compute.gate.set()
    assert await asyncio.gather(*callers) == [1] * 5
    assert compute.begun == 1 and not flights.is_running("a")
    assert await flights.run("a", compute) == 2


async def test_run_with_different_keys_computes_each() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    first, second = Computation(1), Computation(2)
    callers = [
        asyncio.create_task(flights.run("a", first)),
        asyncio.create_task(flights.run("b", second)),
    ]
    await settle()
    first.gate.set()
    second.gate.set()
    assert await asyncio.gather(*callers) == [1, 2]


async def test_run_is_cancelled_only_with_the_last_request() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(1, 2)
    first, second = (asyncio.create_task(flights.run("a", compute)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled() and compute.broken_off == 0
    second.cancel()
    await settle()
    assert compute.broken_off == 1 and not flights.is_running("a")
    compute.gate.set()
    assert await flights.run("a", compute) == 2


async def test_run_with_an_error_raises_it_in_every_request() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(ContractError("bad"), 1)
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(3)]
    await settle()
    compute.gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ContractError] * 3
    assert compute.begun == 1


async def test_run_after_the_starters_deadline_is_started_again_by_another() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(DeadlineError("late"), 1)
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(4)]
    await settle()
    compute.gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert type(outcomes[0]) is DeadlineError and outcomes[1:] == [1, 1, 1]
    assert compute.begun == 2


async def test_run_when_every_request_is_late_ends() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(*[DeadlineError("late")] * 3)
    compute.gate.set()
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(3)]
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [DeadlineError] * 3


async def test_run_with_an_abandoned_failure_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(ContractError("bad"))
    principal = asyncio.create_task(flights.run("a", compute))
    await settle()
    compute.gate.set()
    principal.cancel()
    await settle()
    assert principal.cancelled() and not caplog.records


async def test_run_with_a_computation_cancelled_inside_is_started_again() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    inner = asyncio.create_task(asyncio.sleep(60))
    outcomes = [inner, 7]

    async def compute() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, int):
            return outcome
        await outcome
        return 0

    first, second = (asyncio.create_task(flights.run("a", compute)) for _ in range(2))
    await settle()
    inner.cancel()
    assert await second == 7
    with pytest.raises(asyncio.CancelledError):
        await first
