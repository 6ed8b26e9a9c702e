"""Concurrency: ordered map with backpressure, and calls shielded from cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from serving.gateway.scheduling.concurrency import UncancelledCalls, ordered_map

WINDOW = 3


class Source:
    """Stream of 0, 1, 2, ... that counts the items read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self.count):
            self.read += 1
            yield number


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_ordered_map_keeps_the_order_of_items() -> None:
    running = most = 0

    async def compute(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002 * (5 - number % 5))
        running -= 1
        return 10 * number

    results = ordered_map(compute, aiter(Source(20)), WINDOW)
    assert [result async for result in results] == [10 * number for number in range(20)]
    assert most == WINDOW


async def test_ordered_map_reads_at_most_the_window_ahead() -> None:
    source = Source(20)

    async def compute(number: int) -> int:
        return number

    async with aclosing(ordered_map(compute, aiter(source), WINDOW)) as results:
        for taken in range(1, 6):
            assert await anext(results) == taken - 1
            await settled()
            assert source.read == taken + WINDOW - 1


async def test_ordered_map_when_closed_cancels_pending_calls() -> None:
    ended: list[int] = []

    async def compute(number: int) -> int:
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        finally:
            ended.append(number)
        return number

    async with aclosing(ordered_map(compute, aiter(Source(9)), WINDOW)) as results:
        assert await anext(results) == 0
        await settled()
    assert sorted(ended) == [0, 1, 2]


async def test_ordered_map_raises_the_error_of_its_source_after_the_results() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("gone")

    async def compute(number: int) -> int:
        return number

    results = ordered_map(compute, broken(), WINDOW)
    assert await anext(results) == 1
    with pytest.raises(ConnectionError, match="gone"):
        await anext(results)


async def test_run_with_a_cancelled_caller_completes() -> None:
    calls, gate, ended = UncancelledCalls(), asyncio.Event(), []

    async def call() -> int:
        await gate.wait()
        ended.append(True)
        return 7

    principal = asyncio.create_task(calls.run(call()))
    await asyncio.sleep(0)
    assert calls.abandoned == 0
    await asyncio.sleep(0)
    principal.cancel()
    with pytest.raises(asyncio.CancelledError):
        await principal
    assert calls.abandoned == 1
    await calls.finish(0.01)
    assert calls.abandoned == 1 and not ended
    gate.set()
    await calls.finish(5)
    await asyncio.sleep(0)
    assert calls.abandoned == 0 and ended == [True]


async def test_run_returns_results_and_raises_errors() -> None:
    calls = UncancelledCalls()

    async def call(value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return value

    assert await calls.run(call(3)) == 3
    with pytest.raises(ValueError, match="negative"):
        await calls.run(call(-1))
    await calls.finish(1)
    assert calls.abandoned == 0
